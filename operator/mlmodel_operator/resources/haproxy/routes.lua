-- Follows the routes file; in a rollout, counts what HAProxy cannot count, and reads what a client chooses.
--
-- HAProxy runs this with one Lua state, and no code here yields within a request, so no locking is needed. While there
-- is one version, no function here runs for a request: `state.map` has the backend.

local PATH = os.getenv("MLMODEL_ROUTES")
local GRPC_PORT = os.getenv("MLMODEL_GRPC_PORT")
local POLL_MS = 200
local MAP = "state.map"

local routes = nil -- the active routes
local seen = nil -- the last text of the file, valid or not

-- A new process counts from zero: the operator recognises it by this.
local random = io.open("/dev/urandom", "rb")
local BOOT = string.format("%016x", (string.unpack("<I8", random:read(8))))
random:close()

-- The counts ----------------------------------------------------------------------------------------------------------
--
-- Only requests that were drawn count, by the weight that they were drawn with, since the routes have this candidate.
-- HAProxy counts the good outcomes in the table `tally`, this program all others.

local outcomes -- by tally
local weights -- that the present candidate has had
local uncounted -- predictions that cannot be evidence, by reason
local rollout = 0 -- number of the rollout: an earlier one of the same revision must not count

local function reset_counts()
  outcomes, weights, rollout = {}, {}, rollout + 1
  uncounted = { large = 0, chosen = 0, crowd = 0, other = 0 }
end

reset_counts()

local function tally_name(weight, side)
  return rollout .. ":" .. weight .. ":" .. side
end

-- Counts a prediction that cannot be evidence.
core.register_fetches("note", function(_, why)
  uncounted[why] = uncounted[why] + 1
  return why
end)

-- What a client may choose --------------------------------------------------------------------------------------------

-- Returns the number at a position of a protobuf message, and the position after it; nil if there is none.
local function varint(message, at)
  local number, shift = 0, 0
  while shift < 70 do
    local byte = message:byte(at)
    if not byte then
      return nil
    end
    number, shift, at = number | (byte & 127) << shift, shift + 7, at + 1
    if byte < 128 then
      return number, at
    end
  end
  return nil
end

local FIXED = { [1] = 8, [5] = 4 } -- wire types with their length

-- Returns the version in a gRPC prediction, field 2 of the message, empty without one; nil if the message cannot be
-- read to its end, so that it may have one.
local function model_version(message)
  local at, version = 6, "" -- after the prefix of five bytes
  while at <= #message do
    local tag, value = varint(message, at)
    local kind = tag and tag & 7
    local length = FIXED[kind]
    if kind == 0 then
      length, value = varint(message, value)
      length = length and 0
    elseif kind == 2 then
      length, value = varint(message, value)
    end
    if not length or length < 0 or value + length > #message + 1 then
      return nil
    end
    if kind == 2 and tag >> 3 == 2 then
      version = message:sub(value, value + length - 1) -- the last one counts
    end
    at = value + length
  end
  return version
end

-- Returns the role that has this version; stable if none has, which answers that it does not know the version.
local function role_of(version)
  local label = routes.label
  return version ~= label[routes.stable] and version == label[routes.candidate] and "candidate" or "stable"
end

-- Returns the role that the client chooses by header or by a version in the path.
local function choice(txn)
  local wish = txn.f:req_hdr("x-mlmodel-version")
  if wish == "stable" or wish == "candidate" then
    return wish
  end
  return role_of(txn.f:path():match("/versions/([^/]*)"))
end

-- Returns the backend, without its prefix, of requests that are not drawn.
local function destination()
  if routes.candidate and routes.weight == 100 then
    return "candidate_" .. routes.candidate
  end
  return routes.stable and "only_" .. routes.stable or "none"
end

-- Returns the backend for a request whose client chooses a side; counts it if it is a prediction.
local function chosen_backend(txn, prefix, role)
  if txn:get_var("txn.size") then
    uncounted.chosen = uncounted.chosen + 1
  end
  if role == "candidate" then
    return prefix .. (routes.weight == 100 and "candidate_" or "chosen_") .. routes.candidate
  end
  return prefix .. "only_" .. routes.stable
end

core.register_fetches("choose", function(txn, prefix)
  return chosen_backend(txn, prefix or "", choice(txn))
end)

-- The same by the version in the message of a gRPC prediction; empty without one. A message that is not whole, is
-- compressed or cannot be read cannot be evidence, and goes where others go.
core.register_fetches("choose_in_message", function(txn)
  local message = txn.f:req_body()
  local is_whole = #message >= 5 and message:byte(1) == 0 and string.unpack(">I4", message, 2) == #message - 5
  local version = is_whole and model_version(message) or nil
  if not version then
    local why = is_whole and "other" or "large"
    uncounted[why] = uncounted[why] + 1
    return "grpc_" .. destination()
  end
  return version ~= "" and chosen_backend(txn, "grpc_", role_of(version)) or ""
end)

-- Outcomes ------------------------------------------------------------------------------------------------------------

-- gRPC statuses that count as failures of the model, as in haproxy.cfg.
local GRPC_FAILURES = { ["1"] = true, ["2"] = true, ["4"] = true, ["12"] = true, ["13"] = true, ["14"] = true,
  ["15"] = true }
local GRPC_REJECTIONS = { ["3"] = true, ["8"] = true }

-- Returns `ok`, `failed` (5xx, or no answer), `rejected` (a wrong request, or too many) or `neither`.
local function kind_of(status, grpc_status)
  if grpc_status and grpc_status ~= "" and grpc_status ~= "0" then
    return GRPC_FAILURES[grpc_status] and "failed" or GRPC_REJECTIONS[grpc_status] and "rejected" or "neither"
  elseif status >= 500 then
    return "failed"
  elseif status == 400 or status == 429 then
    return "rejected"
  end
  return status < 400 and "ok" or "neither"
end

-- Whether the server says that it cannot meet the deadline of the client.
local function is_late(txn)
  return (txn.f:res_hdr("x-mlmodel-late") or "") ~= ""
end

local function milliseconds()
  local now = core.now()
  return now.sec * 1000 + now.usec // 1000
end

-- The candidate's own outcome of requests that stable may have answered, by `txn.draw`.
local first, first_count = {}, 0

-- Notes the candidate's own failure or rejection of a request, before it may be retried on stable.
core.register_fetches("first", function(txn)
  if first_count > 10000 then
    first, first_count = {}, 0 -- only clients that disconnected leave any
  end
  local rejected = txn.f:res_hdr("x-mlmodel-first")
  local status, grpc_status = tonumber(rejected or txn.f:status()), txn.f:res_hdr("grpc-status")
  first[txn:get_var("txn.draw")] = {
    kind = kind_of(status, grpc_status),
    is_late = is_late(txn),
    at = milliseconds(),
  }
  first_count = first_count + 1
  return ""
end)

local UNITS = { H = 3600000, M = 60000, S = 1000, m = 1, u = 0.001, n = 0.000001 }

-- Returns the time that the client gave its request, in ms; nil if it set no deadline.
local function allowed_ms(txn)
  local text = txn:get_var("txn.deadline")
  if not text then
    return nil
  end
  local amount, unit = text:match("^(%d+)([HMSmun]?)$")
  return (tonumber(amount) or 0) * (UNITS[unit] or 1)
end

local function add(name, ...)
  local count = outcomes[name]
  if not count then
    count = { good = 0, failed = 0, shared = 0 }
    outcomes[name] = count
  end
  for _, what in ipairs({ ... }) do
    count[what] = count[what] + 1
  end
end

-- Whether the client's deadline decides about an outcome: it is shorter than the router's limit, and has passed, or the
-- server said that it cannot be met.
local function has_expired(txn, at, was_late)
  local allowed = allowed_ms(txn)
  return allowed and allowed < routes.limit and (was_late or at - txn:get_var("txn.started") >= allowed)
end

local function count_stable(txn, name, final)
  local now = txn:get_var("txn.now")
  if has_expired(txn, now, is_late(txn)) then
    return
  elseif final == "failed" or final == "ok" and now - txn:get_var("txn.started") > routes.limit then
    add(name, "failed")
  elseif final == "ok" then
    add(name, "good")
  end
end

local function count_candidate(txn, name, final)
  local draw, now = tostring(txn:get_var("txn.draw")), txn:get_var("txn.now")
  local noted = first[draw]
  if not noted then
    if final == "ok" and txn:get_var("txn.server") == "own" and not has_expired(txn, now, false) then
      add(name, "good")
    end
    return
  end
  first[draw], first_count = nil, first_count - 1
  local has_failed = noted.kind == "failed" or noted.kind == "rejected"
  if not has_failed or final == "rejected" or final == "neither" or has_expired(txn, noted.at, noted.is_late) then
    return
  elseif final == "failed" or now - noted.at > routes.limit then
    add(name, "failed", "shared") -- stable failed it too, by the same measure
  else
    add(name, "failed")
  end
end

-- Counts the outcome of a request that was drawn, unless HAProxy has counted it. It counts for neither side if the
-- deadline of the client was too short, if the request is wrong for stable too, or if it says nothing about the model,
-- like a missing key.
core.register_fetches("outcome", function(txn, side)
  local name = txn:get_var("txn.tally")
  if name then
    local final = kind_of(txn.f:status(), txn.f:res_hdr("grpc-status"))
    if side == "stable" then
      count_stable(txn, name, final)
    else
      count_candidate(txn, name, final)
    end
  end
  return ""
end)

-- The file ------------------------------------------------------------------------------------------------------------

-- Returns the routes in a text, or nil and the reason. Every line must be valid: half a file must never become active.
local function parse(text)
  local id, body = text:match("^id (%x+)\n(.*)$")
  if not id then
    return nil, "it doesn't begin with an id"
  end
  local new = { id = id, address = {}, label = {}, weight = 0, revision = "", limit = 10000 }
  for line in body:gmatch("([^\n]*)\n?") do
    local slot, ip, port, label = line:match("^slot ([ab]) ([%x.:]+) (%d+) ?([%w._-]*)$")
    local stable = line:match("^stable ([ab])$")
    local candidate, weight, revision, limit = line:match("^candidate ([ab]) (%d+) (%w+) (%d+)$")
    if slot then
      new.address[slot], new.label[slot] = { ip = ip, port = port }, label
    elseif stable then
      new.stable = stable
    elseif candidate and tonumber(weight) <= 100 and tonumber(limit) > 0 then
      new.candidate, new.weight, new.revision, new.limit = candidate, tonumber(weight), revision, tonumber(limit)
    elseif line ~= "" then
      return nil, "a line is not understood: " .. line
    end
  end
  if text:sub(-1) ~= "\n" then
    return nil, "its end is missing"
  end
  if new.stable and not new.address[new.stable] or new.candidate and not new.address[new.candidate] then
    return nil, "a role is given to a slot without an address"
  end
  if new.candidate and (new.candidate == new.stable or not new.stable) then
    return nil, "a candidate needs a stable in the other slot"
  end
  return new
end

local running = false -- HAProxy accepts connections; before, an address is set at once

-- Sets the address of a server; returns nil, or the reason why it failed. HAProxy may apply it a little later.
local function point(backend, name, ip, port)
  local server = core.backends[backend].servers[name]
  local answer = server:set_addr(ip, port) or ""
  if answer:find("nvalid") then
    return "no such address: " .. ip
  end
  if not running then
    return nil
  end
  -- No request may be sent to a slot before its address is set; the loop ends after at most a second.
  for _ = 1, 100 do
    local now = server:get_addr():gsub("[%[%]]", "")
    if now == ip .. ":" .. port then
      return nil
    end
    core.msleep(10)
  end
  return "the address " .. ip .. " is not accepted"
end

-- Points all servers of a slot to its address, and those of the other slot that retry here.
local function point_slot(slot, ip, port)
  local opposite = slot == "a" and "b" or "a"
  local wrong = nil
  for prefix, number in pairs({ [""] = port, grpc_ = GRPC_PORT }) do
    for _, role in ipairs({ "only_", "stable_", "own_" }) do
      wrong = wrong or point(prefix .. role .. slot, "own", ip, number)
    end
    for _, role in ipairs({ "candidate_", "chosen_" }) do
      wrong = wrong or point(prefix .. role .. opposite, "other", ip, number)
    end
  end
  return wrong
end

-- Writes what HAProxy reads for each request: where it goes without a draw, whether to draw, and how.
local function publish()
  local to = destination()
  local values = { to = to, grpc_to = "grpc_" .. to, limit = tostring(routes.limit), mode = "direct" }
  if routes.candidate and routes.weight > 0 then
    weights[routes.weight] = true
    values.mode = "draw"
    values.weight = tostring(routes.weight)
    values.key = routes.id
    for _, prefix in ipairs({ "", "grpc_" }) do
      values[prefix .. "candidate"] = prefix .. "candidate_" .. routes.candidate
      values[prefix .. "stable"] = prefix .. "stable_" .. routes.stable
    end
    values.candidate_tally = tally_name(routes.weight, "candidate")
    values.stable_tally = tally_name(routes.weight, "stable")
  end
  -- The mode last: a draw needs the rest.
  local mode = values.mode
  values.mode = nil
  for name, value in pairs(values) do
    core.set_map(MAP, name, value)
  end
  core.set_map(MAP, "mode", mode)
end

local function take(text)
  local new, wrong = parse(text)
  for slot, address in pairs(new and new.address or {}) do
    wrong = wrong or point_slot(slot, address.ip, address.port)
  end
  if wrong then
    core.log(core.warning, "routes file rejected, the previous routes stay: " .. wrong)
    return
  end
  if not routes or routes.revision ~= new.revision then
    reset_counts()
  end
  routes = new
  publish()
  core.log(core.notice, "routes applied: " .. new.id)
end

-- Reads the file, and applies its text if it has changed; so an invalid text is logged only once.
local function follow()
  local file = io.open(PATH, "r")
  local text = file and file:read("a")
  if file then
    file:close()
  end
  if text and text ~= seen then
    seen = text
    take(text)
  end
end

local function follow_safely()
  local ok, wrong = pcall(follow)
  if not ok then
    core.log(core.err, "routes file cannot be applied: " .. tostring(wrong))
  end
end

-- Before the first connection is accepted, so that a process that was killed serves again with its start.
core.register_init(follow_safely)

core.register_task(function()
  running = true
  while true do
    follow_safely()
    core.msleep(POLL_MS)
  end
end)

-- The status page, which the operator reads ---------------------------------------------------------------------------

-- Returns the mean response time of stable over its last thousand requests in ms; 0 without requests.
local function stable_ms()
  local longest = 0
  for _, backend in ipairs({ "only_", "stable_", "grpc_only_", "grpc_stable_" }) do
    local stats = routes and routes.stable and core.backends[backend .. routes.stable]:get_stats() or {}
    longest = math.max(longest, tonumber(stats.rtime) or 0)
  end
  return longest
end

local function side_counts(weight, side)
  local name = tally_name(weight, side)
  local good = core.proxies["tally"].stktable:lookup(name)
  local others = outcomes[name] or { good = 0, failed = 0, shared = 0 }
  return (good and good.gpc0 or 0) + others.good + others.failed, others
end

local function weights_json()
  local parts = {}
  for weight in pairs(weights) do
    local candidate, candidate_bad = side_counts(weight, "candidate")
    local stable, stable_bad = side_counts(weight, "stable")
    parts[#parts + 1] = string.format(
      '"%d": {"candidate": {"requests": %d, "failed": %d, "shared": %d}, "stable": {"requests": %d, "failed": %d}}',
      weight,
      candidate,
      candidate_bad.failed,
      candidate_bad.shared,
      stable,
      stable_bad.failed
    )
  end
  return table.concat(parts, ", ")
end

core.register_service("status", "http", function(applet)
  local body = string.format(
    '{"boot": "%s", "id": "%s", "candidate": "%s", "stable_ms": %d, "weights": {%s}, '
      .. '"uncounted": {"large": %d, "chosen": %d, "crowd": %d, "other": %d}}\n',
    BOOT,
    routes and routes.id or "",
    routes and routes.revision or "",
    stable_ms(),
    weights_json(),
    uncounted.large,
    uncounted.chosen,
    uncounted.crowd,
    uncounted.other
  )
  applet:set_status(200)
  applet:add_header("content-type", "application/json")
  applet:add_header("content-length", tostring(#body))
  applet:start_response()
  applet:send(body)
end)
