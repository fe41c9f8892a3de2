-- Sign-in cut-offs, which stay in effect until they are withdrawn.
--
-- The hash has a field for each user, or * for everyone: the time of the last `allow`, then each
-- later cut-off, as the time of the act and the moment that it names. The result is the same in
-- whatever order the acts arrive, and however often.
--
-- KEYS  the hash
-- ARGV  the user or *; the time of the act; the moment, or nothing to withdraw the cut-offs
local who, at, before = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local text = redis.call('HGET', KEYS[1], who) or '0'
local allowed = tonumber(string.match(text, '^%d+'))
local cuts = {}

local function add(new_at, new_before)
  if new_at <= allowed then
    return
  end
  local rest = {}
  for _, cut in ipairs(cuts) do
    if cut[1] >= new_at and cut[2] >= new_before then
      return
    end
    if cut[1] > new_at or cut[2] > new_before then
      rest[#rest + 1] = cut
    end
  end
  rest[#rest + 1] = {new_at, new_before}
  cuts = rest
end

if before == nil then
  allowed = math.max(allowed, at)
end
for old_at, old_before in string.gmatch(text, ' (%d+):(%S+)') do
  add(tonumber(old_at), tonumber(old_before))
end
if before ~= nil then
  add(at, before)
end
text = string.format('%.0f', allowed)
for _, cut in ipairs(cuts) do
  text = text .. string.format(' %.0f:%.6f', cut[1], cut[2])
end
redis.call('HSET', KEYS[1], who, text)
return text
