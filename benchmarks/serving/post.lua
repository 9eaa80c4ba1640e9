-- POST requests of one to many entities for wrk: wrk … -s post.lua URL -- ENTITIES KEYS_FILE FEATURE…
-- KEYS_FILE has a key a line; request i takes the next ENTITIES of them. The bodies are made before the first request;
-- the figures are printed as one line of JSON.

local bodies = {}
local next_body = 0

function init(args)
   local entities = tonumber(args[1])
   local features = {}
   for i = 3, #args do features[#features + 1] = '"' .. args[i] .. '"' end
   local head = '{"features":[' .. table.concat(features, ",") .. '],"entities":{"card_id":['
   local keys = {}
   for key in io.lines(args[2]) do
      keys[#keys + 1] = '"' .. key .. '"'
      if #keys == entities then
         bodies[#bodies + 1] = head .. table.concat(keys, ",") .. "]}}"
         keys = {}
      end
   end
   wrk.method = "POST"
   wrk.headers["Content-Type"] = "application/json"
end

function request()
   next_body = next_body % #bodies + 1
   return wrk.format(nil, nil, nil, bodies[next_body])
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '{"requests": %d, "seconds": %.3f, "p50_ms": %.3f, "p90_ms": %.3f, "p99_ms": %.3f, "max_ms": %.3f, "failed": %d}\n',
      summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(90) / 1e3,
      latency:percentile(99) / 1e3, latency.max / 1e3,
      errors.connect + errors.read + errors.write + errors.timeout + errors.status))
end
