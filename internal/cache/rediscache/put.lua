-- Stores entries that are newer than what is held, and publishes those whose
-- version is: it returns how many listen to that here, or -1 if there was nothing to publish. KEYS are the entries' keys, all of one hash tag. ARGV: the channel, the
-- origin, and for each key its value and its time-to-live in milliseconds, negative if it is not to be told.
-- A value begins with version and time, 20 digits each, so that text compares as they do.
local call, sub = redis.call, string.sub
local held, stored, told = call('MGET', unpack(KEYS)), {}, {}
for i, key in ipairs(KEYS) do
  local new, ttl, old = ARGV[2 * i + 1], ARGV[2 * i + 2], stored[key] or held[i]
  local raised = not old or sub(old, 1, 20) < sub(new, 1, 20)
  if raised or sub(old, 1, 40) < sub(new, 1, 40) then
    local untold = sub(ttl, 1, 1) == '-'
    if untold then ttl = sub(ttl, 2) end
    call('SET', key, new, 'PX', ttl)
    stored[key] = new
    if raised and not untold then
      told[#told + 1] = new
    end
  end
end
if #told == 0 then
  return -1
end
return call('PUBLISH', ARGV[1], ARGV[2] .. '\n' .. table.concat(told, '\n'))
