#!lua
-- Accept a batch of ballots: all of them or none.
--
-- KEYS  1 the stream, 2 the poll
-- ARGV  1 the deadline (Redis' clock, ms), 2 the round, 3 the number of values per ballot, then each
--       ballot: voter, choice and, if the number is 3, a trace, which may be empty
-- Returns {status, Redis' clock in ms, id, id, ...}: an id per ballot if the status is "ok".
--
-- The shebang line makes Redis refuse the whole script, before its first write, if memory is full.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- After the deadline the voters have got an error response: the batch must not be applied.
if now >= tonumber(ARGV[1]) then
  return {'late', now}
end

-- A worker creates the stream, with its group, and the poll's state.
-- HGET, not HMGET: the users of Redis that earlier versions made have no other right.
local state = redis.call('HGET', KEYS[2], 'state')
local round = redis.call('HGET', KEYS[2], 'round')
if not round or redis.call('EXISTS', KEYS[1]) == 0 then
  return {'missing', now}
end
-- The voters have seen another question. A trial of no ballots is for any round.
if ARGV[2] ~= '' and ARGV[2] ~= round then
  return {'another', now}
end
-- One clock decides for all vote pods.
local closes_at = tonumber(redis.call('HGET', KEYS[2], 'closes_at') or '')
if state ~= 'open' or (closes_at and now >= closes_at) then
  return {'closed', now}
end

-- New ids are above the last, and an entry that was added by hand may have any: refuse ids that do not
-- fit into Lua's numbers (53 bits), and so into Postgres' (63).
local most = 9007199254740991
local info = redis.call('XINFO', 'STREAM', KEYS[1])
for i = 1, #info, 2 do
  if info[i] == 'last-generated-id' then
    local ms, seq = string.match(info[i + 1], '^(%d+)-(%d+)$')
    ms, seq = tonumber(ms), tonumber(seq)
    if ms >= most or (ms >= now and seq >= most - #ARGV) then
      return {'full', now}
    end
  end
end

local reply = {'ok', now}
local width = tonumber(ARGV[3])
for i = 4, #ARGV, width do
  local voter, choice = ARGV[i], ARGV[i + 1]
  if width == 3 and ARGV[i + 2] ~= '' then
    reply[#reply + 1] = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', 'voter', voter, 'choice', round .. choice, 'trace', ARGV[i + 2])
  else
    reply[#reply + 1] = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', 'voter', voter, 'choice', round .. choice)
  end
end
return reply
