-- Appends to blocks what jobs came to for good. KEYS are the blocks. ARGV: the channel, what is told there (empty: nothing),
-- a time-to-live in milliseconds, the most bytes of a block, and for each block what comes to it.
-- A block's time-to-live is that of its first entry. So one that is older than a tenth of that takes no more, nor does a full one.
-- It returns how many listen to the channel here, or -1 if nothing was told, and then the numbers of the blocks that took nothing.
local call = redis.call
local ttl, most, out = tonumber(ARGV[3]), tonumber(ARGV[4]), {-1}
for i, key in ipairs(KEYS) do
  local left = call('PTTL', key)
  if left < 0 then
    call('SET', key, ARGV[i + 4], 'PX', ttl)
  elseif left <= ttl and left * 10 >= ttl * 9 and call('STRLEN', key) < most then
    call('APPEND', key, ARGV[i + 4])
  else
    out[#out + 1] = i
  end
end
if ARGV[2] ~= '' then out[1] = call('PUBLISH', ARGV[1], ARGV[2]) end
return out
