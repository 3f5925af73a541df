-- KEYS: high water. ARGV: a sequence, u64 LE; compared as two u32 halves, as in commit_window.
-- Reply: {"ok"}.
local stored = redis.call('GET', KEYS[1])
local low, high = struct.unpack('<I4I4', ARGV[1])
local old_low, old_high = 0, 0
if stored then
  old_low, old_high = struct.unpack('<I4I4', stored)
end
if high > old_high or (high == old_high and low > old_low) then
  redis.call('SET', KEYS[1], ARGV[1])
end
return {'ok'}
