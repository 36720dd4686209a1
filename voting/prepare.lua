#!lua
-- Make the stream fit for casting and reading; changes nothing where it already is.
--
-- KEYS  1 the stream, 2 the poll
-- ARGV  1 the group, 2 and 3 the newest version in Postgres (ms, seq), 4 the poll's state
-- Returns 1 where the stream or its group had to be made, else 0.

local made = 0
-- From 0, never $: whatever is in the stream has not been counted by this group.
local group = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if not group.err then
  made = 1
elseif not string.find(group.err, 'BUSYGROUP', 1, true) then
  return group
end

-- A stream that was lost may restart below what Postgres has counted, where the clock stepped back;
-- its ballots would look older than the votes they replace.
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then
    local ms, seq = string.match(info[i + 1], '^(%d+)-(%d+)$')
    ms, seq = tonumber(ms), tonumber(seq)
    local least_ms, least_seq = tonumber(ARGV[2]), tonumber(ARGV[3])
    if ms < least_ms or (ms == least_ms and seq < least_seq) then
      redis.call('XSETID', KEYS[1], ARGV[2] .. '-' .. ARGV[3])
    end
  end
end

redis.call('HSET', KEYS[2], 'state', ARGV[4])
return made
