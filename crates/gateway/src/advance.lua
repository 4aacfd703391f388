-- Applies what a gateway admitted to the TATs of KEYS, and answers what each then owes.
-- All in microseconds, TATs by this server's clock. ARGV: how long a key that owes nothing is kept,
-- and for each key: by, at_least (counted from now), and the longest debt that is kept.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local kept = tonumber(ARGV[1])
local debts = {}
for index, key in ipairs(KEYS) do
  local by, at_least, most = tonumber(ARGV[3 * index - 1]), tonumber(ARGV[3 * index]), tonumber(ARGV[3 * index + 1])
  local tat = math.max((tonumber(redis.call('GET', key)) or 0) + by, now + at_least)
  local debt = math.min(tat - now, most)
  if debt + kept > 0 then
    redis.call('SET', key, string.format('%.0f', now + debt), 'PX', math.ceil((debt + kept) / 1000))
  end
  debts[index] = math.max(debt, 0)
end
return debts
