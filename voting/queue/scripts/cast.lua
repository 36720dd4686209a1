#!lua
-- Accept a batch of ballots: all of them or none.
--
-- KEYS  1 the stream, 2 the poll
-- ARGV  1 the deadline (Redis' clock, ms), 2 the width of a ballot, then each ballot:
--       voter and choice where the width is 2, and a trace, which may be empty, where it is 3
-- Returns {status, Redis' clock in ms, id, id, ...}: an id for each ballot where status is "ok".
--
-- The shebang line makes Redis refuse the whole script before its first write where memory is full.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Past the deadline the voters were told that it failed: it must not be applied any more.
if now >= tonumber(ARGV[1]) then
  return {'late', now}
end

-- Without a group's stream, or the poll's state, a worker has to prepare them first.
local state = redis.call('HGET', KEYS[2], 'state')
if not state or redis.call('EXISTS', KEYS[1]) == 0 then
  return {'missing', now}
end
-- All vote pods ask this one clock.
local closes_at = tonumber(redis.call('HGET', KEYS[2], 'closes_at') or '')
if state ~= 'open' or (closes_at and now >= closes_at) then
  return {'closed', now}
end

local reply = {'ok', now}
local width = tonumber(ARGV[2])
for i = 3, #ARGV, width do
  local voter, choice = ARGV[i], ARGV[i + 1]
  if width == 3 and ARGV[i + 2] ~= '' then
    reply[#reply + 1] = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', 'voter', voter, 'choice', choice, 'trace', ARGV[i + 2])
  else
    reply[#reply + 1] = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', 'voter', voter, 'choice', choice)
  end
end
return reply
