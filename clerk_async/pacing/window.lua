-- The window of one key, shared by all processes that use the key.
--
-- A place is taken from its grant until `per` milliseconds after its response was reported. So the
-- request that takes it next arrives at least `per` later, whatever the latency of either was. The
-- record of a process has the places that it holds (granted or in flight). Places of answered
-- requests cool in a sorted set until they are free. Only Redis's own clock counts.
--
-- KEYS   state, places, records, leases, feed
-- ARGV   one message from one process, as JSON (see clerk_async.pacing.key_window)
-- Reply  JSON
local STATE, PLACES, RECORDS, LEASES, FEED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local message = cjson.decode(ARGV[1])
local id = message.id

local function number(field)
  return tonumber(redis.call('HGET', STATE, field)) or 0
end

-- A clock that never goes back, even if Redis's clock is set back.
local time = redis.call('TIME')
local shift = number('shift')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + shift
if now < number('now') then
  shift = shift + number('now') - now
  now = number('now')
end

local function settle()
  redis.call('HSET', STATE, 'settled', now + message.settle)
end

local function begin()
  redis.call('DEL', STATE, PLACES, RECORDS, LEASES)
  redis.call('HSET', STATE, 'epoch', message.nonce, 'now', now, 'shift', shift)
  settle()
end

local function change(kind, by)
  if by ~= 0 then
    redis.call('HINCRBY', STATE, 'used', by)
    redis.call('HINCRBY', STATE, 'used:' .. kind, by)
  end
end

-- Schedule `count` places of a process, already counted as used, to become free at `free_at`.
local function cool(owner, kind, count, free_at)
  if free_at <= now then
    change(kind, -count)
  elseif count > 0 then
    local serial = redis.call('HINCRBY', STATE, 'serial', 1)
    redis.call('ZADD', PLACES, free_at, table.concat({owner, kind, count, serial}, ' '))
    redis.call('HINCRBY', STATE, 'cooling', count)
  end
end

local function give_back(entries)
  for _, entry in ipairs(entries) do
    local kind, count = string.match(entry, '^%S+ (%S+) (%d+) %d+$')
    change(kind, -tonumber(count))
    redis.call('HINCRBY', STATE, 'cooling', -tonumber(count))
    redis.call('ZREM', PLACES, entry)
  end
end

local function record_of(owner)
  local text = redis.call('HGET', RECORDS, owner)
  return text and cjson.decode(text)
end

-- Remove a process that counts as dead; its requests may have arrived until its lease ended.
local function bury(owner, record, free_at)
  for kind, count in pairs(record.held) do
    cool(owner, kind, count, free_at + record.per)
  end
  redis.call('HINCRBY', STATE, 'running', 0 - record.running)
  redis.call('HDEL', RECORDS, owner)
  redis.call('ZREM', LEASES, owner)
end

-- Redis may have evicted one of the keys: what the others say of it is worth nothing then.
local function is_whole()
  local cooling, records = number('cooling'), redis.call('HLEN', RECORDS)
  return redis.call('HEXISTS', STATE, 'epoch') == 1
    and records == redis.call('ZCARD', LEASES)
    and (cooling == 0 or redis.call('EXISTS', PLACES) == 1)
    and (records > 0 or number('used') == cooling)
end

if not is_whole() then
  begin()
end
give_back(redis.call('ZRANGEBYSCORE', PLACES, '-inf', now))
local dead = redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'WITHSCORES')
for index = 1, #dead, 2 do
  bury(dead[index], record_of(dead[index]), tonumber(dead[index + 1]))
end
if #dead > 0 and redis.call('ZCARD', LEASES) == 0 then
  settle() -- nobody reached Redis for a whole lease: others may have continued alone
end
redis.call('HSET', STATE, 'now', now, 'shift', shift)

local record = record_of(id)
if record and record.seq < message.heard then
  begin() -- Redis lost a reply that it gave, so it may have lost the places of others too
  record = nil
end
local epoch = redis.call('HGET', STATE, 'epoch')
local is_known = record and message.epoch == epoch
local verdict = 'ok'
local granted = {}
local wait = -1
local news = message.news

local function note_singles(arrived)
  -- the recent rate of single calls: the places that they will need are kept free for them
  local tick = math.max(1, math.floor(message.per / message.ticks))
  local index = math.floor(now / tick)
  local before, since = number('before'), number('since')
  if index ~= number('tick') then
    before = (index == number('tick') + 1) and since or 0
    since = 0
  end
  since = since + arrived
  redis.call('HSET', STATE, 'tick', index, 'before', before, 'since', since)
  local left = 1 - (now % tick) / tick
  return math.ceil((since + before * left) * message.per / tick)
end

local function store(held)
  local wants = 0
  for _, want in ipairs(message.wants) do
    wants = wants + want.count
  end
  local running = 0
  for kind, count in pairs(held) do
    if kind ~= 'single' and count > 0 then
      running = 1
    end
  end
  if wants > 0 then
    running = 1
  end
  redis.call('HINCRBY', STATE, 'running', running - (record and record.running or 0))
  redis.call('HSET', RECORDS, id, cjson.encode({
    seq = message.seq, held = held, per = message.per, running = running,
  }))
  redis.call('ZADD', LEASES, now + message.lease, id)
end

if message.act == 'bye' then
  if is_known and message.seq > record.seq then
    for _, done in ipairs(message.done) do
      record.held[done.kind] = (record.held[done.kind] or 0) - done.count
      cool(id, done.kind, done.count, now + message.per - done.age)
    end
    for kind, count in pairs(record.held) do
      change(kind, -count)
    end
    record.held = {}
    bury(id, record, now)
  end
elseif message.act == 'join' then
  if record and message.seq <= record.seq then
    verdict = 'old'
  else
    if record then
      for kind, count in pairs(record.held) do
        change(kind, -count)
      end
    end
    local mine = {}
    for _, entry in ipairs(redis.call('ZRANGE', PLACES, 0, -1)) do
      if string.sub(entry, 1, #id + 1) == id .. ' ' then
        mine[#mine + 1] = entry
      end
    end
    give_back(mine)
    for kind, count in pairs(message.held) do
      change(kind, count)
    end
    for _, place in ipairs(message.cooling) do
      change(place.kind, place.count)
      cool(id, place.kind, place.count, now + place.left)
    end
    store(message.held)
    if message.company > 1 then
      -- Redis was away for this process. Other processes that were running then may have continued
      -- alone and ended since, so that nobody reported the last places they used.
      local company = now < number('missed') and number('company') or 0
      redis.call('HSET', STATE, 'company', math.max(company, message.company), 'missed', now + message.per)
    end
  end
elseif not is_known then
  verdict = 'join'
elseif message.seq <= record.seq then
  verdict = 'old'
else
  local held, done, singles = message.held, {}, 0
  for _, each in ipairs(message.done) do
    done[each.kind] = (done[each.kind] or 0) + each.count
  end
  for kind in pairs(record.held) do
    held[kind] = held[kind] or 0
  end
  for kind in pairs(done) do
    held[kind] = held[kind] or 0
  end
  for kind, count in pairs(held) do
    local by = count + (done[kind] or 0) - (record.held[kind] or 0)
    change(kind, by)
    if kind == 'single' and by > 0 then
      singles = by
    end
    if count == 0 then
      held[kind] = nil
    end
  end
  for _, each in ipairs(message.done) do
    cool(id, each.kind, each.count, now + message.per - each.age)
  end
  local expected = note_singles(singles)

  if #message.wants > 0 then
    local used, single = number('used'), number('used:single')
    local kept, missing = math.max(0, expected - single), 0
    if now < number('missed') then
      local company = number('company')
      local gone = math.max(0, company - math.max(1, number('running')))
      missing = math.floor(message.limit * gone / company)
    end
    local room = message.allowed - used - kept - missing
    if missing == 0 then
      room = math.max(room, message.least - (used - single))
    end
    local unmet = false
    local settled = number('settled')
    for _, want in ipairs(message.wants) do
      local count = math.min(want.count, room)
      if want.cap > 0 then
        count = math.min(count, want.cap - number('used:' .. want.kind))
      end
      if now < settled or now > message.latest or count <= 0 then
        count = 0
      end
      if count < want.count then
        unmet = true
      end
      granted[#granted + 1] = count
      if count > 0 then
        held[want.kind] = (held[want.kind] or 0) + count
        change(want.kind, count)
        room = room - count
      end
    end
    if now < settled then
      wait = settled - now
    elseif unmet then
      local first = redis.call('ZRANGE', PLACES, 0, 0, 'WITHSCORES')
      wait = first[2] and tonumber(first[2]) - now or -1
      if kept > 0 then
        local soon = math.floor(message.per / message.ticks)
        wait = wait < 0 and soon or math.min(wait, soon)
      end
    end
  end
  store(held)
end

-- What a refusal tells one process applies to all.
if news and message.act ~= 'bye' and verdict ~= 'old' then
  if news.pause and now + news.pause > number('paused') then
    redis.call('HSET', STATE, 'paused', now + news.pause, 'reason', news.reason)
    redis.call('XADD', FEED, '*', 'look', '1')
    redis.call('PEXPIRE', FEED, message.keep)
  end
  local level = number('level')
  if news.level and news.level >= 0 and level >= 0 and now < number('refused') then
    redis.call('HSET', STATE, 'level', math.max(level, news.level)) -- one refusal, met by several
  elseif news.level then
    redis.call('HINCRBY', STATE, 'refusals', 1)
    redis.call('HSET', STATE, 'level', news.level, 'refused', now - news.age)
  elseif news.raise and news.refusals == number('refusals') and level >= 0 then
    redis.call('HINCRBY', STATE, 'level', news.raise)
  end
end

if message.beat then
  for _, key in ipairs({STATE, PLACES, RECORDS, LEASES}) do
    redis.call('PEXPIRE', key, message.idle)
  end
end

local refusals = number('refusals')
return cjson.encode({
  verdict = verdict,
  epoch = epoch,
  now = now,
  used = number('used'),
  singles = number('used:single'),
  cooling = number('cooling'),
  processes = redis.call('ZCARD', LEASES),
  running = number('running'),
  granted = granted,
  wait = wait,
  pause = math.max(0, number('paused') - now),
  reason = redis.call('HGET', STATE, 'reason') or '',
  refusals = refusals,
  level = refusals > 0 and number('level') or -1,
  age = refusals > 0 and now - number('refused') or 0,
})
