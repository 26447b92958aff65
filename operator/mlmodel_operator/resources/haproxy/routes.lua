-- Follows the routes file, the API keys and the certificate; in a rollout, counts what HAProxy cannot count, and reads
-- what a client chooses and what a header assigns.
--
-- HAProxy runs this with one Lua state, and no code here yields within a request, so no locking is needed. While there
-- is one version, no function here runs for a request: `state.map` has the backend.

local PATH = os.getenv("MLMODEL_ROUTES")
local ASSIGNED_PATH = os.getenv("MLMODEL_ASSIGNED") -- what the operator wrote on this pod; empty before
local GRPC_PORT = os.getenv("MLMODEL_GRPC_PORT")
local TIMEOUT_MS = 1000 * tonumber(os.getenv("MLMODEL_TIMEOUT_SECONDS"))
local POLL_MS = 200
local MAP = "state.map"
local KEYS_PATH = os.getenv("MLMODEL_KEYS") -- nil if the router checks no API keys
local TLS_PATH = os.getenv("MLMODEL_TLS") and os.getenv("MLMODEL_TLS_PATH") -- nil without TLS
local STOP_PATH = os.getenv("MLMODEL_STOP") -- router.sh writes this file before a soft stop; nil if it does not run

local routes = nil -- the active routes
local followed = "" -- identity of the routes that all requests follow
local seen = nil -- the last text of the files, valid or not; nil to look at it again
local refused = nil -- the last text that is not followed, and why, so that the log says so only once
local is_stopping = false -- no request may need the proxies of this process any more

-- A new process counts from zero: the operator recognises it by this.
local random = io.open("/dev/urandom", "rb")
local BOOT = string.format("%016x", (string.unpack("<I8", random:read(8))))
random:close()

-- Returns the text of a file; nil if it cannot be read.
local function read(path)
  local file = io.open(path, "r")
  local text = file and file:read("a")
  if file then
    file:close()
  end
  return text
end

-- Returns the path of another file in the same folder.
local function beside(path, name)
  return (path:gsub("[^/]*$", name))
end

-- The counts ----------------------------------------------------------------------------------------------------------
--
-- Only requests that were drawn count, by the weight that they were drawn with, since the routes have this candidate.
-- HAProxy counts the good outcomes in the table `tally`, this program all others. `left` are requests to stable whose
-- client gave up before an outcome: they are in no other count.

local outcomes -- by tally
local weights -- that the present candidate has had
local uncounted -- predictions that cannot be evidence, by reason
local rollout = 0 -- number of the rollout: an earlier one of the same revision must not count

local function reset_counts()
  outcomes, weights, rollout = {}, {}, rollout + 1
  uncounted = { large = 0, chosen = 0, sticky = 0, matched = 0, crowd = 0, other = 0 }
end

reset_counts()

local function tally_name(weight, side)
  return rollout .. ":" .. weight .. ":" .. side
end

-- Counts a prediction that cannot be evidence; at a weight of 0, none can.
local function count_as(why)
  if routes.weight > 0 then
    uncounted[why] = uncounted[why] + 1
  end
end

core.register_fetches("note", function(_, why)
  count_as(why)
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
    return is_stopping and "either_" .. routes.stable or "candidate_" .. routes.candidate
  end
  return routes.stable and "only_" .. routes.stable or "none"
end

local CHOSEN = 2 -- requests in flight that choose the candidate, as in haproxy.cfg

-- Returns the backend for a request whose client chooses a side; counts it if it is a prediction. While this process
-- stops, it is sent without a proxy between: stable cannot stand in for the version that the client named.
local function chosen_backend(txn, prefix, role)
  if txn:get_var("txn.size") then
    count_as("chosen")
  end
  local only = prefix .. "only_" .. routes[role]
  if role == "stable" then
    return only
  elseif is_stopping then
    local is_full = routes.weight < 100 and tonumber(core.backends[only]:get_stats().scur) >= CHOSEN
    return is_full and prefix .. "full" or only
  end
  return prefix .. (routes.weight == 100 and "candidate_" or "chosen_") .. routes.candidate
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
    count_as(is_whole and "other" or "large")
    return "grpc_" .. destination()
  end
  return version ~= "" and chosen_backend(txn, "grpc_", role_of(version)) or ""
end)

-- What a header assigns -----------------------------------------------------------------------------------------------

-- Returns the value of a header; nil if the request lacks it, has it more than once, or has an empty one.
local function only_value(txn, name)
  if txn.f:req_fhdr_cnt(name) ~= 1 then
    return nil
  end
  local value = txn.f:req_fhdr(name)
  return value ~= "" and value or nil
end

-- Returns a text without the spaces around it; nil if it has others. (A pattern for both ends would need a time that
-- grows with the square of the length.)
local function word(text)
  local first = text:find("[^ \t]")
  local last = first and text:find("[ \t]", first)
  if last and text:find("[^ \t]", last) then
    return nil
  end
  return first and text:sub(first, (last or 0) - 1)
end

-- Whether an element of the comma-separated list in a header is one of the values.
local function matches(txn, rule)
  for element in (only_value(txn, rule.header) or ""):gmatch("[^,]+") do
    if rule.values[word(element) or ""] then
      return true
    end
  end
  return false
end

-- Returns a number from 0 to 99 that depends on a value alone, in every router: a hash with a key that no client knows.
local function hundredth(txn, key, value)
  return string.unpack(">I4", txn.c:sha1(key .. value)) % 100
end

-- Returns the role that a header assigns the request to, and the kind of rule; nil without such a header.
local function assignment(txn)
  local match, sticky = routes.sides.match, routes.sides.sticky
  if match and matches(txn, match) then
    return "candidate", "matched"
  end
  local value = sticky and only_value(txn, sticky.header)
  if value then
    return hundredth(txn, sticky.key, value) < routes.weight and "candidate" or "stable", "sticky"
  end
  return nil
end

-- Sends a request that would be drawn to the side that its header assigns; without such a header it is drawn.
core.register_action("assign", { "http-req" }, function(txn, protocol)
  local role, rule = assignment(txn)
  if role then
    count_as(rule)
    local backend = (role == "candidate" and "assigned_" or "only_") .. routes[role]
    txn:set_var("txn.to", (protocol == "grpc" and "grpc_" or "") .. backend)
    txn:unset_var("txn.key")
  end
end, 1)

-- Outcomes ------------------------------------------------------------------------------------------------------------

-- gRPC statuses that count as failures of the model, as in haproxy.cfg.
local GRPC_FAILURES = { ["1"] = true, ["2"] = true, ["4"] = true, ["8"] = true, ["12"] = true, ["13"] = true,
  ["14"] = true, ["15"] = true }

-- Returns `ok`, `failed` (5xx, no answer, or too many requests), `rejected` (a wrong request) or `neither`. A server
-- sheds at random: if only the candidate were blamed for it, because stable accepts most of what the candidate sheds,
-- an overload of both would condemn the candidate.
local function kind_of(status, grpc_status)
  if grpc_status and grpc_status ~= "" and grpc_status ~= "0" then
    return GRPC_FAILURES[grpc_status] and "failed" or grpc_status == "3" and "rejected" or "neither"
  elseif status >= 500 or status == 429 then
    return "failed"
  elseif status == 400 then
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
    -- Not `core.now()`: in HAProxy 3.0 it differs from the clock of the rules, which has `txn.started`.
    at = txn.f:date(0, "ms"),
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
    count = { good = 0, failed = 0, shared = 0, left = 0 }
    outcomes[name] = count
  end
  for _, what in ipairs({ ... }) do
    count[what] = count[what] + 1
  end
end

-- Whether the client left before it had an answer; HAProxy then answers itself.
local function has_left(txn)
  return txn.f:status() == 400 and (txn.f:txn_sess_term_state() or ""):sub(1, 1) == "C"
end

-- Returns for how many ms a client was willing to wait that gave up within `took` ms: it left, or its deadline passed,
-- or the server said that it cannot be met. Returns nil if it did not; a deadline above the router's limit changes
-- nothing.
local function waited_ms(txn, took, was_late, left)
  local allowed = allowed_ms(txn)
  if left then
    return math.min(took, allowed or took)
  end
  return allowed and allowed < routes.limit and (was_late or took >= allowed) and allowed or nil
end

local function count_stable(txn, name, final, left)
  local took = txn:get_var("txn.now") - txn:get_var("txn.started")
  local waited = waited_ms(txn, took, is_late(txn), left)
  if not left and (final == "rejected" or final == "neither") then
    return
  elseif waited and waited < routes.patience then
    add(name, "left")
  else
    add(name, (waited or final == "failed" or took > routes.limit) and "failed" or "good")
  end
end

local function count_candidate(txn, name, final, left)
  local draw, started, now = tostring(txn:get_var("txn.draw")), txn:get_var("txn.started"), txn:get_var("txn.now")
  local noted = first[draw]
  if not noted then
    -- The candidate's own answer, unless the client left before it.
    local waited = waited_ms(txn, now - started, false, left)
    local is_own = final == "ok" and txn:get_var("txn.server") == "own"
    if waited and waited >= routes.patience and (left or is_own) then
      add(name, "failed", "shared")
    elseif not waited and is_own then
      add(name, "good")
    end
    return
  end
  first[draw], first_count = nil, first_count - 1
  -- A client that leaves during the retry leaves as it would if stable alone had answered for as long.
  local waited = waited_ms(txn, (left and now or noted.at) - started, noted.is_late, left)
  if waited and waited < routes.patience or noted.kind == "neither" or left and noted.kind == "rejected" then
    return
  elseif not left and (final == "rejected" or final == "neither") then
    return
  elseif left or final == "failed" or now - noted.at > (waited or routes.limit) then
    add(name, "failed", "shared") -- stable failed it too, by the same measure; or it is unknown
  else
    add(name, "failed")
  end
end

-- Counts the outcome of a request that was drawn, unless HAProxy has counted it. It counts for neither side if the
-- request is wrong for stable too, or if it says nothing about the model, like a missing key.
--
-- A client that gives up says something about a version only if it has waited far longer than stable normally takes
-- (`patience`). An earlier one could choose the outcome: it would only have to give up between the times that the two
-- versions take. Stable may fail such a request too, so the candidate does not fail alone.
core.register_fetches("outcome", function(txn, side)
  local name = txn:get_var("txn.tally")
  if name then
    local final, left = kind_of(txn.f:status(), txn.f:res_hdr("grpc-status")), has_left(txn)
    if side == "stable" then
      count_stable(txn, name, final, left)
    else
      count_candidate(txn, name, final, left)
    end
  end
  return ""
end)

-- The file ------------------------------------------------------------------------------------------------------------

local DAY_MS = 24 * 60 * 60 * 1000

-- Whether digits are a number from `low` to `high`.
local function is_within(digits, low, high)
  local number = math.tointeger(tonumber(digits))
  return number and number >= low and number <= high
end

-- Whether a text is an IP address as `get_addr` shows it.
local function is_address(ip)
  local octets = { ip:match("^(%d+)%.(%d+)%.(%d+)%.(%d+)$") }
  for _, octet in ipairs(octets) do
    if not is_within(octet, 0, 255) or octet:find("^0%d") then
      return false
    end
  end
  return #octets == 4 or ip:find(":", 1, true) and core.parse_addr(ip) ~= nil
end

-- Returns the routes in a text, or nil and the reason. Every line must be valid: half a file must never become active.
local function parse(text)
  local id, body = text:match("^id (%x+)\n(.*)$")
  if not id or #id > 64 then
    return nil, "it doesn't begin with an id"
  end
  local new = { id = id, address = {}, label = {}, weight = 0, revision = "", limit = 10000, patience = 10000 }
  for line in body:gmatch("([^\n]*)\n?") do
    local slot, ip, port, label = line:match("^slot ([ab]) ([%x.:]+) (%d+) ?([%w._-]*)$")
    local stable = line:match("^stable ([ab])$")
    local candidate, weight, revision, limit, patience = line:match("^candidate ([ab]) (%d+) (%w+) (%d+) (%d+)$")
    local has_times = candidate and is_within(limit, 1, DAY_MS) and is_within(patience, 1, DAY_MS)
    if slot and not is_address(ip) then
      return nil, "no such address: " .. ip
    elseif slot and is_within(port, 1, 65535) then
      new.address[slot], new.label[slot] = { ip = ip, port = port }, label
    elseif stable then
      new.stable = stable
    elseif has_times and is_within(weight, 0, 100) and #revision < 64 then
      new.candidate, new.weight, new.revision = candidate, tonumber(weight), revision
      new.limit, new.patience = tonumber(limit), tonumber(patience)
    elseif line ~= "" then
      return nil, "a line is not understood: " .. line:sub(1, 200)
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

-- Returns the rules of the file `sides`; none if it is not that of the routes with this identity. A line that is not
-- understood, as of a later release, assigns nothing: the routes must be followed all the same, and requests that no
-- header assigns are drawn.
local function parse_sides(text, id)
  local found = { is_open = false }
  local of, rules = text:match("^id (%x+)\n(.*)$")
  if of ~= id then
    return found
  end
  for line in rules:gmatch("([^\n]*)\n") do
    local sticky, key = line:match("^sticky ([%w._-]+) (%x+)$")
    local match, values = line:match("^match ([%w._-]+) ([!-~ ]+)$")
    if line == "open" then
      found.is_open = true
    elseif sticky then
      found.sticky = { header = sticky, key = key }
    elseif match then
      found.match = { header = match, values = {} }
      for value in values:gmatch("[^ ]+") do
        found.match.values[value] = true
      end
    elseif line ~= "" then
      core.log(core.warning, "sides: a line is not understood: " .. line:sub(1, 200))
    end
  end
  return found
end

local running = false -- HAProxy accepts connections; before, an address is set at once

-- Sets the address of a server; returns nil, or the reason why it failed. HAProxy may apply it a little later.
local function point(backend, name, ip, port)
  local server = core.backends[backend].servers[name]
  server:set_addr(ip, port)
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
  return "the address " .. ip .. " is not accepted yet"
end

local OPPOSITE = { a = "b", b = "a" }

-- What each slot was pointed to last: `address`, `label`, the `revision` if it was a candidate, and `before`, the
-- statistics of its backends at that time.
local tenants = {}

-- Points all servers of a slot to its address.
local function point_slot(slot, ip, port)
  local wrong = nil
  for prefix, number in pairs({ [""] = port, grpc_ = GRPC_PORT }) do
    for _, role in ipairs({ "only_", "stable_", "own_", "retry_", "either_" }) do
      wrong = wrong or point(prefix .. role .. slot, "own", ip, number)
    end
    wrong = wrong or point(prefix .. "either_" .. OPPOSITE[slot], "other", ip, number)
  end
  return wrong
end

local DIRECT = { "only_", "stable_", "own_", "retry_" } -- backends that send to one slot
local RETRIED = { "candidate_", "chosen_", "assigned_" } -- and those that send to both through proxies of this process

-- Adds the backends with these roles of a slot, for HTTP and gRPC.
local function add_backends(found, roles, slot)
  for _, prefix in ipairs({ "", "grpc_" }) do
    for _, role in ipairs(roles) do
      found[#found + 1] = core.backends[prefix .. role .. slot]
    end
  end
end

-- Returns the backends that send requests through proxies of this process.
local function retried_backends()
  local found = {}
  add_backends(found, RETRIED, "a")
  add_backends(found, RETRIED, "b")
  return found
end

-- Returns the backends that may still send a request to what a slot points to.
local function backends_of(slot)
  local found = retried_backends()
  add_backends(found, DIRECT, slot)
  add_backends(found, { "either_" }, "a")
  add_backends(found, { "either_" }, "b")
  return found
end

-- Whether any of these backends has a request in flight.
local function are_busy(backends)
  for _, backend in ipairs(backends) do
    if tonumber(backend:get_stats().scur) > 0 then
      return true
    end
  end
  return false
end

-- Whether these routes give a slot to the revision that it had.
local function has_same_tenant(new, slot)
  local tenant = tenants[slot]
  return tenant.address == new.address[slot].ip
    and tenant.label == new.label[slot]
    and (slot ~= new.candidate or (tenant.revision or new.revision) == new.revision)
end

-- Whether a request of the revision before could still be sent to a candidate in its slot.
local function is_taken(new)
  local slot = new.candidate
  if not slot or not tenants[slot] or has_same_tenant(new, slot) then
    return false
  end
  return are_busy(backends_of(slot))
end

local AVERAGED = 512 -- requests over which HAProxy averages a response time (TIME_STATS_SAMPLES)

-- Returns the requests and the average response time of the backends of a slot.
local function statistics(slot)
  local found = {}
  for _, name in ipairs({ "only_", "stable_", "grpc_only_", "grpc_stable_" }) do
    local stats = core.backends[name .. slot]:get_stats()
    found[name] = { requests = tonumber(stats.req_tot) or 0, ms = tonumber(stats.rtime) or 0 }
  end
  return found
end

-- Writes what HAProxy reads for each request: where it goes without a draw, whether to draw, and how.
local function publish()
  local to = destination()
  local values = { to = to, grpc_to = "grpc_" .. to, limit = tostring(routes.limit), mode = "direct" }
  local weight, sides = routes.weight, routes.sides
  -- At a weight of 0 the candidate gets nothing, unless the routes are open to requests that choose it.
  local gets_requests = routes.candidate and (weight > 0 or sides.is_open)
  if gets_requests and is_stopping then
    values.mode = "stop"
  elseif gets_requests then
    if weight > 0 then
      weights[weight] = true
    end
    values.mode = weight < 100 and (sides.match or sides.sticky) and "assign" or "draw"
    values.weight = tostring(weight)
    values.share = tostring(200 * weight // math.max(100 - weight, 1))
    values.key = routes.id
    for _, prefix in ipairs({ "", "grpc_" }) do
      values[prefix .. "candidate"] = prefix .. "candidate_" .. routes.candidate
      values[prefix .. "stable"] = prefix .. "stable_" .. routes.stable
    end
    for _, side in ipairs({ "candidate", "stable" }) do
      values[side .. "_tally"] = tally_name(weight, side)
      values[side .. "_drawn"] = ("%d %s %s"):format(weight, routes.revision, side)
    end
  end
  -- The mode last: a draw needs the rest.
  local mode = values.mode
  values.mode = nil
  for name, value in pairs(values) do
    core.set_map(MAP, name, value)
  end
  core.set_map(MAP, "mode", mode)
end

-- Returns nil, or the reason why the routes cannot be followed.
local function apply(new)
  local wrong = nil
  for slot, address in pairs(new.address) do
    wrong = wrong or point_slot(slot, address.ip, address.port)
  end
  if wrong then
    for slot, address in pairs(routes and routes.address or {}) do
      point_slot(slot, address.ip, address.port)
    end
    return wrong
  end
  for slot, address in pairs(new.address) do
    if not tenants[slot] or not has_same_tenant(new, slot) then
      tenants[slot] = { address = address.ip, label = new.label[slot], before = statistics(slot) }
    end
    if slot == new.candidate then
      tenants[slot].revision = new.revision
    end
  end
  if not routes or routes.revision ~= new.revision then
    reset_counts()
  end
  routes = new
  publish()
  followed = new.id
  core.log(core.notice, "routes applied: " .. new.id)
  return nil
end

local waiting = nil -- time in ms since which a candidate's slot is taken

-- Gives all requests to stable while the slot of a new candidate has requests in flight, which must never be sent to
-- it. They have an answer within two time limits, if they are not streams: what is left then is closed.
local function wait_for_slot(new)
  local id = "waiting-" .. new.id
  waiting = waiting or milliseconds()
  if milliseconds() - waiting > 2 * TIMEOUT_MS then
    core.log(core.warning, "requests of a former revision do not end: they are closed, slot " .. new.candidate)
    for _, backend in ipairs(backends_of(new.candidate)) do
      for _, server in pairs(backend.servers) do
        server:shut_sess()
      end
    end
  end
  if routes and routes.id == id then
    return nil
  end
  local stable = new.stable
  return apply({
    id = id,
    address = { [stable] = new.address[stable] },
    label = { [stable] = new.label[stable] },
    stable = stable,
    weight = 0,
    revision = "",
    limit = new.limit,
    patience = new.patience,
    sides = {},
  })
end

-- Logs why the text in `seen` is not followed: once for each text and reason, until one is followed.
local function reject(wrong)
  if seen .. wrong ~= refused then
    refused = seen .. wrong
    core.log(core.warning, "routes file rejected, the previous routes stay: " .. wrong)
  end
end

-- Follows a text of the files. One that is not valid is looked at once, one that cannot be applied again and again.
local function take(text, sides)
  local new, wrong = parse(text)
  if not new then
    reject(wrong)
    return
  end
  new.sides = parse_sides(sides, new.id)
  local is_postponed = is_taken(new)
  if is_postponed then
    wrong = wait_for_slot(new)
  else
    waiting = nil
    wrong = apply(new)
  end
  if wrong then
    reject(wrong)
  else
    refused = nil
  end
  if wrong or is_postponed then
    seen = nil
  end
end

-- The API keys --------------------------------------------------------------------------------------------------------

local known = {} -- the hashes in the map, beside the words that are there from the start
local keys_seen = nil -- the last text of the file, valid or not
local keys_state = KEYS_PATH and "closed" or "" -- `current`, or `former` while the file is not valid

-- Returns the names of the keys in a text by hash, as the server does; nil and the reason if a line is not valid.
local function parse_keys(text)
  local names, number = {}, 0
  for line in (text .. "\n"):gmatch("([^\n]*)\n") do
    number = number + 1
    line = line:gsub("\r$", "")
    local name, hash = line:match("^%s*(%w[%w._-]*)%s*:%s*(%x+)%s*$")
    local is_valid = name and #name <= 63 and #hash == 64 and hash == hash:lower()
    if is_valid then
      names[hash] = name
    elseif line:find("%S") and line:sub(1, 1) ~= "#" then
      return nil, "line " .. number .. " is not 'NAME: SHA256'"
    end
  end
  if not next(names) then
    return nil, "it has no key"
  end
  return names
end

-- Reads the file of API keys, and replaces the hashes in the map if it has changed. A file that cannot be used changes
-- nothing: what was valid stays valid, and a process that has read none yet follows no routes.
local function follow_keys()
  local text = read(KEYS_PATH)
  if text and text == keys_seen then
    return
  end
  local names, wrong = nil, "it cannot be read"
  if text then
    names, wrong = parse_keys(text)
  end
  if names then
    for hash, name in pairs(names) do
      core.set_map(MAP, hash, name)
    end
    for hash in pairs(known) do
      if not names[hash] then
        core.del_map(MAP, hash)
      end
    end
    known = names
    core.log(core.notice, "API keys read")
  elseif text ~= keys_seen or keys_state == "current" then
    core.log(core.err, "file of API keys rejected, the previous keys stay: " .. wrong)
  end
  keys_seen = text
  keys_state = names and "current" or next(known) and "former" or "closed"
end

local is_assigned = false -- whether the operator wrote routes on this pod

-- Returns the path of the routes to follow. Anyone who may write ConfigMaps can change those in PATH, so they count
-- only until the operator has written on this pod.
local function routes_path()
  is_assigned = is_assigned or (read(ASSIGNED_PATH) or "") ~= ""
  return is_assigned and ASSIGNED_PATH or PATH
end

-- Reads the files, and follows their text if it has changed.
local function follow()
  if KEYS_PATH then
    follow_keys()
    if keys_state == "closed" then
      return
    end
  end
  local path = routes_path()
  local text, sides = read(path), read(beside(path, "sides")) or "" -- none unless the spec assigns requests by header
  local both = text and text .. "\0" .. sides
  -- Kubelet replaces both files at once, which may be between the two reads.
  if both and both ~= seen and text == read(path) then
    seen = both
    local ok, wrong = pcall(take, text, sides)
    if not ok then
      reject(tostring(wrong))
      seen = nil
    end
  end
end

local function follow_safely()
  local ok, wrong = pcall(follow)
  if not ok then
    core.log(core.err, "routes file cannot be read: " .. tostring(wrong))
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

-- The stop ------------------------------------------------------------------------------------------------------------
--
-- After the signal for a soft stop, this process accepts no connection, not even its own: a request that the candidate
-- fails then cannot be retried on stable. So no request is drawn any more from some moments before the signal, which
-- router.sh sends when this program has removed the file: all requests that were drawn have an answer.

-- Does the next step of a stop; returns whether the signal may be sent.
local function step_to_stop()
  if is_stopping then
    return not are_busy(retried_backends())
  end
  is_stopping = read(STOP_PATH) ~= nil
  if is_stopping and routes then
    publish()
  end
  return false
end

if STOP_PATH then
  core.register_task(function()
    while not step_to_stop() do
      core.msleep(is_stopping and 20 or POLL_MS)
    end
    os.remove(STOP_PATH)
  end)
end

-- Readiness -----------------------------------------------------------------------------------------------------------
--
-- A network that enforces NetworkPolicies may permit the connections of a new pod only a moment after its start. A pod
-- that was ready before would get requests, in place of a pod that can serve them, and lose them: so it is ready when
-- a server that gets requests has accepted a connection. If none is accepted, the clients get an error that they can
-- read.
--
-- A file in the volume of the pod says so to a process or container that is started again, whose network is permitted:
-- it would get no requests for nothing while no server can be reached.

local REACH_MS = 1000 * tonumber(os.getenv("MLMODEL_REACH_SECONDS"))
local CONNECT_SECONDS = 0.5
local REACHED_PATH = STOP_PATH and beside(STOP_PATH, "reached")

local function accepts(address)
  local client = core.tcp()
  client:settimeout(CONNECT_SECONDS)
  local is_connected = client:connect(address.ip, tonumber(address.port))
  client:close()
  return is_connected ~= nil
end

local function note_reached()
  local file = REACHED_PATH and io.open(REACHED_PATH, "w")
  if file then
    file:close()
  end
end

-- Whether stable accepts connections, or the candidate if it has all requests, because it may stand in for stable; or
-- one did so for a process of this pod before. True if there is none, which no network would change.
local function is_reached()
  if not routes.stable or REACHED_PATH and read(REACHED_PATH) then
    return true
  end
  local now = routes
  for _, slot in ipairs({ now.stable, now.weight == 100 and now.candidate or nil }) do
    if accepts(now.address[slot]) then
      note_reached()
      return true
    end
  end
  return false
end

core.register_task(function()
  while not routes do
    core.msleep(POLL_MS)
  end
  local started = milliseconds()
  while not is_reached() and milliseconds() - started < REACH_MS do
    core.msleep(POLL_MS)
  end
  core.set_map(MAP, "ready", "yes")
end)

-- The certificate -----------------------------------------------------------------------------------------------------

local CERTIFICATE, TRIAL = "/tls.crt", "/./tls.crt" -- the names in haproxy.cfg
local TRIAL_ADDRESS = "abns@mlmodel-" .. (os.getenv("MLMODEL_PROCESS") or "1") .. "-trial"

local RETRY_MS = 2000 -- of a certificate that was rejected: on a busy node, a handshake may take too long

local tls_seen = nil -- the last certificate and key, valid or not
local tls_retry = nil -- time in ms at which one that was rejected is tried again
local tls_state = TLS_PATH and "current" or "" -- or `former` while the files are not valid

-- Returns the certificate and its key as one text; nil while kubelet replaces the files, or if one is missing.
local function read_certificate()
  local certificate, key = read(TLS_PATH .. "/tls.crt"), read(TLS_PATH .. "/tls.key")
  if certificate and key and certificate == read(TLS_PATH .. "/tls.crt") then
    return certificate .. "\n" .. key
  end
  return nil
end

-- Whether a client can complete a handshake with the certificate on trial.
local function completes_handshake()
  local client = core.tcp()
  client:settimeout(5)
  local is_connected = client:connect_ssl(TRIAL_ADDRESS, 0)
  local answer = is_connected and client:send("GET / HTTP/1.0\r\n\r\n") and client:receive("*l")
  client:close()
  return answer ~= nil and answer ~= false
end

-- Gives new connections the certificate in a text; raises an error if it cannot be used. Connections stay as they are.
local function renew(text)
  if text:find("ENCRYPTED", 1, true) then
    error("the key is encrypted") -- HAProxy would prompt for a password
  end
  CertCache.set({ filename = TLS_PATH .. TRIAL, [""] = text })
  if not completes_handshake() then
    error("the key does not belong to the certificate")
  end
  CertCache.set({ filename = TLS_PATH .. CERTIFICATE, [""] = text })
end

local function follow_certificate()
  local text = read_certificate()
  local is_new = text ~= tls_seen
  if not text or not is_new and not (tls_retry and milliseconds() >= tls_retry) then
    return
  end
  tls_seen = text
  local ok, wrong = pcall(renew, text)
  tls_state = ok and "current" or "former"
  tls_retry = not ok and milliseconds() + RETRY_MS or nil
  if ok then
    core.log(core.notice, "certificate read")
  elseif is_new then
    core.log(core.err, "certificate rejected, the previous one stays: " .. tostring(wrong))
  end
end

if TLS_PATH then
  core.register_task(function()
    while true do
      follow_certificate()
      core.msleep(POLL_MS)
    end
  end)
end

-- The status page, which the operator reads ---------------------------------------------------------------------------

-- Returns the share that the requests before have in an average after `later` more of them.
local function share_of(before, later)
  local few = math.max(math.min(later, AVERAGED - before), 0)
  local share = before == 0 and 0 or before / (before + few)
  return share * (1 - 1 / AVERAGED) ^ (later - few)
end

-- Returns the mean response time of stable over its last requests in ms; 0 without requests. HAProxy's average goes on
-- when a slot gets another revision: the part of those before is taken out.
local function stable_ms()
  local longest, tenant = 0, routes and routes.stable and tenants[routes.stable]
  if tenant then
    for name, now in pairs(statistics(routes.stable)) do
      local before = tenant.before[name]
      local later = now.requests - before.requests
      if later > 0 then
        local share = share_of(before.requests, later)
        longest = math.max(longest, (now.ms - before.ms * share) / (1 - share))
      end
    end
  end
  return math.floor(longest)
end

local function side_counts(weight, side)
  local name = tally_name(weight, side)
  local good = core.proxies["tally"].stktable:lookup(name)
  local others = outcomes[name] or { good = 0, failed = 0, shared = 0, left = 0 }
  return (good and good.gpc0 or 0) + others.good + others.failed, others
end

local function weights_json()
  local parts = {}
  for weight in pairs(weights) do
    local candidate, candidate_bad = side_counts(weight, "candidate")
    local stable, stable_bad = side_counts(weight, "stable")
    parts[#parts + 1] = string.format(
      '"%d": {"candidate": {"requests": %d, "failed": %d, "shared": %d}, '
        .. '"stable": {"requests": %d, "failed": %d, "left": %d}}',
      weight,
      candidate,
      candidate_bad.failed,
      candidate_bad.shared,
      stable,
      stable_bad.failed,
      stable_bad.left
    )
  end
  return table.concat(parts, ", ")
end

core.register_service("status", "http", function(applet)
  local body = string.format(
    '{"boot": "%s", "id": "%s", "candidate": "%s", "tls": "%s", "keys": "%s", "stable_ms": %d, "weights": {%s}, '
      .. '"uncounted": {"large": %d, "chosen": %d, "sticky": %d, "matched": %d, "crowd": %d, "other": %d}}\n',
    BOOT,
    followed,
    routes and routes.revision or "",
    tls_state,
    keys_state,
    stable_ms(),
    weights_json(),
    uncounted.large,
    uncounted.chosen,
    uncounted.sticky,
    uncounted.matched,
    uncounted.crowd,
    uncounted.other
  )
  applet:set_status(200)
  applet:add_header("content-type", "application/json")
  applet:add_header("content-length", tostring(#body))
  applet:start_response()
  applet:send(body)
end)
