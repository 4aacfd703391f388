-- Decides one request of each of KEYS, one after the other: what the key then owes, and by how much the
-- request was too early if it is refused. All in microseconds, TATs by this server's clock.
-- ARGV: how long a key that owes nothing is kept, and for each key its interval, its tolerance, and the longest
-- debt that is kept: what is beyond comes of a clock that was set back.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local kept = tonumber(ARGV[1])
local said = {}
for index, key in ipairs(KEYS) do
  local interval, tolerance, most = tonumber(ARGV[3 * index - 1]), tonumber(ARGV[3 * index]), tonumber(ARGV[3 * index + 1])
  local tat = math.min(math.max(tonumber(redis.call('GET', key)) or 0, now), now + most)
  local early = math.max(tat - now - tolerance, 0)
  if early == 0 then
    tat = tat + interval
    redis.call('SET', key, string.format('%.0f', tat), 'PX', math.ceil((tat - now + kept) / 1000))
  end
  said[2 * index - 1] = tat - now
  said[2 * index] = early
end
return said
