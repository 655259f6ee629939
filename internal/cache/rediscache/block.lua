-- Appends to blocks what jobs came to for good. KEYS are the blocks. ARGV: the channel, what is told there,
-- a time-to-live in milliseconds, the bytes from which on a block is full, and for each block what comes to it.
-- A block's time-to-live is that of its first entry: once a tenth of it has passed it takes no more, so that no entry
-- lives for much less than it should, and none for longer. One of a single byte is closed.
-- It returns how many listen to the channel here, and then the numbers of the blocks that took nothing.
local call, ttl, most, out = redis.call, tonumber(ARGV[3]), tonumber(ARGV[4]), {0}
for i, key in ipairs(KEYS) do
  local left, size = call('PTTL', key), call('STRLEN', key)
  if left < 0 then
    call('SET', key, ARGV[i + 4], 'PX', ttl)
  elseif left <= ttl and left * 10 >= ttl * 9 and size > 1 and size < most then
    call('APPEND', key, ARGV[i + 4])
  else
    out[#out + 1] = i
  end
end
out[1] = call('PUBLISH', ARGV[1], ARGV[2])
return out
