-- Sends one kind of request over and over and prints "BENCH {json}" at the end.
-- The environment says which, so that no token is in an argument:
--   BENCH_METHOD, BENCH_TOKEN (or empty), BENCH_BODY (a file, or empty), BENCH_WRAP_TTL (a duration, or empty)
--   BENCH_KEYS   N > 0: append /1 … /N to the path; each of BENCH_THREADS takes its share, in turn
--   BENCH_STEP   which of the keys: every so many; they are put in for @KEY@ in the body, if that is there, instead
--   BENCH_PLAIN  1: the path is not changed; BENCH_KEYS is how many requests are wanted
--   BENCH_END    Unix time, or empty: @TTL@ in the body is the number of seconds until then
--   BENCH_ONCE   1: a thread says FILLED when each of its keys has been answered (the caller then interrupts wrk)

local threads = tonumber(os.getenv("BENCH_THREADS"))
local keys = tonumber(os.getenv("BENCH_KEYS"))
local once = os.getenv("BENCH_ONCE") == "1"
local plain = os.getenv("BENCH_PLAIN") == "1"
local ends = tonumber(os.getenv("BENCH_END"))
local step = tonumber(os.getenv("BENCH_STEP"))
local started = 0

function setup(thread)
  thread:set("number", started)
  started = started + 1
end

function init(args)
  wrk.method = os.getenv("BENCH_METHOD")
  if os.getenv("BENCH_TOKEN") ~= "" then
    wrk.headers["X-Vault-Token"] = os.getenv("BENCH_TOKEN")
  end
  if os.getenv("BENCH_WRAP_TTL") ~= "" then
    wrk.headers["X-Vault-Wrap-TTL"] = os.getenv("BENCH_WRAP_TTL")
  end
  local body = os.getenv("BENCH_BODY")
  if body ~= "" then
    local file = assert(io.open(body, "rb"))
    wrk.body = file:read("*a")
    file:close()
    wrk.headers["Content-Type"] = "application/json"
  end
  if keys > 0 and plain then
    whole, share, answered = wrk.format(), math.floor(keys / threads), 0
  elseif keys > 0 then
    in_body = wrk.body and wrk.body:find("@KEY@") ~= nil
    head, tail = wrk.format(nil, wrk.path .. "/@@"):match("^(.-)@@(.*)$")
    share, sent, answered = math.floor(keys / threads), 0, 0
    if number == 0 then
      sent = -1   -- wrk asks the first thread for a request that it never sends
    end
  end
end

if ends then
  function request()
    return wrk.format(nil, nil, nil, (wrk.body:gsub("@TTL@", tostring(ends - os.time()))))
  end
elseif keys > 0 and plain then
  function request()
    return whole
  end
elseif keys > 0 then
  function request()
    local nth = sent
    sent = sent + 1
    if in_body then
      -- The threads take turns, so that what is sent beyond a share (once) is nobody's key.
      local key = ((once and nth or nth % share) * threads + number + 1) * step
      return wrk.format(nil, nil, nil, (wrk.body:gsub("@KEY@", tostring(key))))
    end
    return head .. (number * share + nth % share + 1) .. tail
  end
end

if once then
  -- A connection has one request at a time, so once `connections` more than the share are answered, the share is.
  local slack = tonumber(os.getenv("BENCH_CONNECTIONS")) / threads
  function response()
    answered = answered + 1
    if answered == share + slack then
      io.write("FILLED\n")
      io.flush()
      wrk.thread:stop()
    end
  end
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'BENCH {"requests":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f,"not_2xx":%d,"socket_errors":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.status, e.connect + e.read + e.write + e.timeout))
end
