-- Stores entries that are newer than what is held, and publishes those whose
-- version is. KEYS are the entries' keys, all of one hash tag. ARGV: the channel, the
-- origin, and for each key its value, its time-to-live in milliseconds, and 1 if it is to be told.
-- A value begins with version and time, 20 digits each, so that text compares as they do.
local told = {}
for i, key in ipairs(KEYS) do
  local new, held = ARGV[3 * i], redis.call('GET', key)
  if not held or string.sub(held, 1, 40) < string.sub(new, 1, 40) then
    redis.call('SET', key, new, 'PX', ARGV[3 * i + 1])
    if ARGV[3 * i + 2] == '1' and (not held or string.sub(held, 1, 20) < string.sub(new, 1, 20)) then
      told[#told + 1] = new
    end
  end
end
if #told > 0 then
  redis.call('PUBLISH', ARGV[1], ARGV[2] .. '\n' .. table.concat(told, '\n'))
end
return #told
