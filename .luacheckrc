max_line_length = 120
files["operator"] = { std = "lua53", read_globals = { "core", "CertCache" } } -- from HAProxy
files["bench"] = { std = "luajit", globals = { "wrk", "init", "done" } } -- wrk calls `init` and `done`
