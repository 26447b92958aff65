-- Draws the slot for each request, counts the outcomes, and follows the routes file.
--
-- The draw uses permuted blocks: of each 100 requests exactly `weight` go to the candidate, in random order. So the
-- weight is exact, and no regular order of the clients can coincide with it, which would bias the comparison.
--
-- HAProxy runs this with one Lua state, and no code here yields within a request, so no locking is needed.

local PATH = os.getenv("MLMODEL_ROUTES")
local GRPC_PORT = os.getenv("MLMODEL_GRPC_PORT")
local POLL_MS = 200
local BLOCK = 100
-- gRPC statuses that count as failures of the model, as in haproxy.cfg.
local GRPC_FAILURES = { ["1"] = true, ["2"] = true, ["4"] = true, ["13"] = true, ["14"] = true, ["15"] = true }

local routes = nil -- the active routes
local seen = nil -- the last text of the file, valid or not
local counts = {
  a = { requests = 0, failed = 0, fallbacks = 0 },
  b = { requests = 0, failed = 0, fallbacks = 0 },
}

-- The draw ------------------------------------------------------------------------------------------------------------

local deck, drawn = {}, 0

local function shuffle(weight)
  for i = 1, BLOCK do
    deck[i] = i <= weight
  end
  for i = BLOCK, 2, -1 do
    local j = math.random(i)
    deck[i], deck[j] = deck[j], deck[i]
  end
  drawn = 0
end

local function candidate_is_drawn()
  if drawn == BLOCK then
    shuffle(routes.weight)
  end
  drawn = drawn + 1
  return deck[drawn]
end

-- The file ------------------------------------------------------------------------------------------------------------

-- Returns the routes in a text, or nil and the reason. Every line must be valid: half a file must never become active.
local function parse(text)
  local id, body = text:match("^id (%x+)\n(.*)$")
  if not id then
    return nil, "it doesn't begin with an id"
  end
  local new = { id = id, address = {}, weight = 0 }
  for line in body:gmatch("([^\n]*)\n?") do
    local slot, ip, port = line:match("^slot ([ab]) ([%x.:]+) (%d+)$")
    local stable = line:match("^stable ([ab])$")
    local candidate, weight = line:match("^candidate ([ab]) (%d+)$")
    if slot then
      new.address[slot] = { ip = ip, port = port }
    elseif stable then
      new.stable = stable
    elseif candidate and tonumber(weight) <= 100 then
      new.candidate, new.weight = candidate, tonumber(weight)
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
  if new.candidate and new.candidate == new.stable then
    return nil, "one slot has both roles"
  end
  return new
end

-- Sets the address of a server; returns nil, or the reason why it failed. HAProxy may apply it a little later.
local function point(backend, name, ip, port)
  local server = core.backends[backend].servers[name]
  local answer = server:set_addr(ip, port) or ""
  if answer:find("nvalid") then
    return "no such address: " .. ip
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

local function take(text)
  local new, wrong = parse(text)
  for slot, address in pairs(new and new.address or {}) do
    local opposite = slot == "a" and "b" or "a"
    wrong = wrong or point("stable_" .. slot, "own", address.ip, address.port)
    wrong = wrong or point("candidate_" .. slot, "own", address.ip, address.port)
    wrong = wrong or point("candidate_" .. opposite, "other", address.ip, address.port)
    wrong = wrong or point("grpc_stable_" .. slot, "own", address.ip, GRPC_PORT)
    wrong = wrong or point("grpc_own_" .. slot, "own", address.ip, GRPC_PORT)
    wrong = wrong or point("grpc_candidate_" .. opposite, "other", address.ip, GRPC_PORT)
  end
  if wrong then
    core.log(core.warning, "routes file rejected, the previous routes stay: " .. wrong)
    return
  end
  routes = new
  shuffle(new.weight)
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

core.register_task(function()
  local random = io.open("/dev/urandom", "rb")
  math.randomseed((string.unpack("<I4", random:read(4))))
  random:close()
  while true do
    local ok, wrong = pcall(follow)
    if not ok then
      core.log(core.err, "routes file cannot be applied: " .. tostring(wrong))
    end
    core.msleep(POLL_MS)
  end
end)

-- Functions that haproxy.cfg calls ------------------------------------------------------------------------------------

-- Returns the backend for this request; its name begins with the prefix.
core.register_fetches("backend", function(txn, prefix)
  prefix = prefix or ""
  if not routes then
    return prefix .. "none"
  end
  local wish = txn.sf:req_hdr("x-mlmodel-version")
  local role, slot = "stable", routes.stable
  if routes.candidate and (wish == "candidate" or wish ~= "stable" and candidate_is_drawn()) then
    role, slot = "candidate", routes.candidate
  end
  if not slot then
    return prefix .. "none"
  end
  counts[slot].requests = counts[slot].requests + 1
  return prefix .. role .. "_" .. slot
end)

-- Counts and returns the outcome of the request: `answered`, `failed` (the client gets an error), or `fallback` (the
-- slot's revision failed or rejected it, and the other one did not reject it). A request that both reject is an error
-- of the client, not a failure.
core.register_fetches("outcome", function(txn)
  local count = counts[txn.sf:be_name():sub(-1)] -- the slot ends the backend's name
  local status, code = tonumber(txn.sf:status()), txn.sf:res_hdr("grpc-status")
  local failed = status >= 500 or GRPC_FAILURES[code]
  local refused = not failed and (status >= 400 or code and code ~= "" and code ~= "0")
  if txn:get_var("txn.server") == "other" and not refused then
    count.failed = count.failed + 1
    count.fallbacks = count.fallbacks + 1
    return "fallback"
  end
  if failed then
    count.failed = count.failed + 1
    return "failed"
  end
  return "answered"
end)

core.register_fetches("ready", function()
  return routes and "yes" or "no"
end)

local function json(count)
  return string.format('{"requests": %d, "failed": %d, "fallbacks": %d}', count.requests, count.failed, count.fallbacks)
end

core.register_service("status", "http", function(applet)
  local body = string.format(
    '{"id": "%s", "slots": {"a": %s, "b": %s}}\n',
    routes and routes.id or "",
    json(counts.a),
    json(counts.b)
  )
  applet:set_status(200)
  applet:add_header("content-type", "application/json")
  applet:add_header("content-length", tostring(#body))
  applet:start_response()
  applet:send(body)
end)
