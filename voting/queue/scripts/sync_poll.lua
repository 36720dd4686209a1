#!lua flags=allow-oom
-- Make sure that the stream and its group exist, and write the poll's rules. Idempotent. Allowed
-- when memory is full: workers free memory by counting and trimming, which needs the group.
--
-- KEYS  1 the stream, 2 the poll
-- ARGV  1 the group, 2 and 3 the newest version in Postgres (ms, seq), 4 the poll's state,
--       5 the deadline (Redis' clock, ms), 6 when the poll closes by itself (Redis' clock, ms; or
--       empty), 7 the last version of the round before, 8 the poll's revision, 9 the database's
--       identity, 10 "1" if there was a queue before, so that a missing one is a loss, 11 the latest
--       loss that Postgres knows of (Redis' clock, ms; or empty), 12 the round, 13 its question
-- Returns {1 if the stream was missing, else 0; the poll's state; the stream's last id; if closed,
-- since when (Redis' clock, ms); the loss that Postgres has to be told of (Redis' clock, ms), or
-- empty}.

-- After the deadline the caller has given up, and the poll may have changed since.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now >= tonumber(ARGV[5]) then
  return redis.error_reply('LATE the call reached Redis after its deadline')
end

local known = redis.call(
  'HMGET', KEYS[2], 'state', 'closes_at', 'closed_at', 'revision', 'revised', 'database', 'loss',
  'round', 'rounds'
)

-- A worker with another DATABASE_URL would count a part of the votes there.
if known[6] and known[6] ~= '' and known[6] ~= ARGV[9] then
  return redis.error_reply('FOREIGN ' .. known[6])
end

-- Refuse a stale state. The caller held the Postgres lock when it read the poll, but may have lost
-- it since (connection dropped, process killed). A minute after a change no such call is under way:
-- then Postgres was restored from an older backup. What it does not know may be a close: the poll
-- stays closed until an operator has decided.
local revision, revised = tonumber(known[4] or '') or 0, tonumber(known[5] or '') or 0
if revision > tonumber(ARGV[8]) then
  if now < revised + 60000 then
    return redis.error_reply('LATE the poll was changed meanwhile')
  end
  if known[1] ~= 'closed' then
    redis.call('HSET', KEYS[2], 'state', 'closed', 'closed_at', now)
  end
  return redis.error_reply('BEHIND ' .. revision)
end
if revision ~= tonumber(ARGV[8]) then
  revised = now
end

-- Never from $: a new group has counted none of the entries of an existing stream. In a new stream
-- everything up to the newest version in Postgres is counted.
local created = 1 - redis.call('EXISTS', KEYS[1])
local start = created == 1 and (ARGV[2] .. '-' .. ARGV[3]) or '0'
local group = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], start, 'MKSTREAM')
if group.err and not string.find(group.err, 'BUSYGROUP', 1, true) then
  return group
end

-- If Redis' clock stepped back, a recreated stream would start below the versions in Postgres,
-- and new ballots would look older than the votes that they replace.
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

-- A loss stays here until Postgres has it: the caller may die before it has stored it.
local loss, stored = tonumber(known[7] or ''), tonumber(ARGV[11]) or 0
if created == 1 and ARGV[10] == '1' then
  loss = math.max(now, tonumber(ARGV[2]), stored + 1)
end
if loss and loss <= stored then
  loss = nil
end

-- The highest round so far. A database that was restored does not know it, and open pages may show it.
local rounds = math.max(tonumber(known[8] or '') or 0, tonumber(known[9] or '') or 0, tonumber(ARGV[12]))

-- Once the poll is closed, no ballot gets an id above the last one.
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
    since = tonumber(ARGV[6])  -- casts have obeyed this time already
  end
end
redis.call(
  'HSET', KEYS[2], 'state', state, 'closes_at', ARGV[6], 'closed_at', since, 'after', ARGV[7],
  'revision', ARGV[8], 'revised', revised, 'database', ARGV[9], 'loss', loss or '',
  'lost', loss or stored, 'round', ARGV[12], 'question', ARGV[13],
  'rounds', rounds
)
return {created, state, last, since, loss or ''}
