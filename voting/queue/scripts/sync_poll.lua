#!lua flags=allow-oom
-- Make the stream fit for casting and reading, and bring the poll in line with what Postgres says;
-- changes nothing where both already are. Also where memory is full: nothing would be read, counted
-- and dropped otherwise.
--
-- KEYS  1 the stream, 2 the poll
-- ARGV  1 the group, 2 and 3 the newest version in Postgres (ms, seq), 4 the poll's state,
--       5 the deadline (Redis' clock, ms), 6 when the poll closes (likewise; empty: not by itself),
--       7 the version that this round's are above, 8 the poll's revision
-- Returns {1 where the stream had to be made, else 0; the poll's state; the stream's last id; since
-- when it is closed, if it is (Redis' clock, ms)}.

-- Past the deadline the caller has given up, and the poll may have another state.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now >= tonumber(ARGV[5]) then
  return redis.error_reply('LATE it reached Redis after its deadline')
end

-- Nor is it to have again the state that it had before a change. Who sends this holds a lock against
-- changes, but may have lost it on the way, with its connection to Postgres or with its life. After a
-- minute nothing of that kind is under way, and Postgres may have been restored to an earlier state.
-- A user made for the version before may not ask: then it is as if nothing was known.
local known = redis.pcall('HMGET', KEYS[2], 'state', 'closes_at', 'closed_at', 'revision', 'revised')
local revision, revised = tonumber(known[4] or '') or 0, tonumber(known[5] or '') or 0
if revision > tonumber(ARGV[8]) and now < revised + 60000 then
  return redis.error_reply('LATE the poll was changed meanwhile')
end
if revision ~= tonumber(ARGV[8]) then
  revised = now
end

-- Never from $: whatever is in a stream has not been counted by a group that is new. In a new
-- stream, everything up to the newest version is counted.
local made = 1 - redis.call('EXISTS', KEYS[1])
local from = made == 1 and (ARGV[2] .. '-' .. ARGV[3]) or '0'
local group = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], from, 'MKSTREAM')
if group.err and not string.find(group.err, 'BUSYGROUP', 1, true) then
  return group
end

-- A stream that was lost may restart below what Postgres has counted, where the clock stepped back;
-- its ballots would look older than the votes they replace.
local last
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then
    last = info[i + 1]
    local ms, seq = string.match(last, '^(%d+)-(%d+)$')
    ms, seq = tonumber(ms), tonumber(seq)
    local least_ms, least_seq = tonumber(ARGV[2]), tonumber(ARGV[3])
    if ms < least_ms or (ms == least_ms and seq < least_seq) then
      last = ARGV[2] .. '-' .. ARGV[3]
      redis.call('XSETID', KEYS[1], last)
    end
  end
end

-- Where it is closed now, no ballot will have an id above the last one.
local state, since = ARGV[4], ''
if ARGV[6] ~= '' and now >= tonumber(ARGV[6]) then
  state = 'closed'
end
if state == 'closed' then
  since = now
  local closed_at = tonumber(known[3] or '')
  if known[1] == 'closed' and closed_at then
    since = closed_at
  elseif ARGV[6] ~= '' and known[2] == ARGV[6] then
    since = tonumber(ARGV[6])  -- casts knew the time, and have obeyed it
  end
end
redis.call(
  'HSET', KEYS[2], 'state', state, 'closes_at', ARGV[6], 'closed_at', since, 'after', ARGV[7],
  'revision', ARGV[8], 'revised', revised
)
return {made, state, last, since}
