// Shows the closing time as a countdown, and the time of old totals as their age. Screen readers
// announce neither.
const clock = document.querySelector('meta[name="clock"]');
// Milliseconds that this machine's clock is ahead of the server's; it may be wrong by any amount.
// The page was rendered before its first byte came, however long the rest of it took.
const [loaded] = performance.getEntriesByType("navigation");
const received = performance.timeOrigin + (loaded ? loaded.responseStart : 0);
let ahead = clock ? received - Number(clock.content) : 0;

function spell(seconds, units) {
  const [hour, minute, second] = units.split(" ");
  const parts = [
    [Math.floor(seconds / 3600), hour],
    [Math.floor(seconds / 60) % 60, minute],
    [seconds % 60, second],
  ];
  while (parts.length > 1 && parts[0][0] === 0) parts.shift();
  return parts.map((part) => part.join(" ")).join(" ");
}

function show(time, text, seconds) {
  const words = text.replace("{}", spell(seconds, time.dataset.units));
  if (time.textContent !== words) time.textContent = words;
}

function tick() {
  for (const time of document.querySelectorAll(".closes time")) {
    const seconds = Math.ceil((Date.parse(time.dateTime) - (Date.now() - ahead)) / 1000);
    if (seconds > 0) show(time, time.dataset.in, seconds);
    else time.parentElement.textContent = time.parentElement.dataset.over;
  }
  for (const time of document.querySelectorAll("[data-ago]")) {
    const since = Number(time.dataset.since) || Date.parse(time.dateTime) + ahead;
    const seconds = Math.max(0, Math.floor((Date.now() - since) / 1000));
    show(time, time.dataset.ago, seconds);
  }
}

// vote.js reads it.
function setAhead(milliseconds) {
  ahead = milliseconds;
  document.documentElement.dataset.ahead = ahead;
}

document.addEventListener("htmx:before:response", ({ detail }) => {
  const { headers } = detail.ctx.response;
  if (!headers.has("Voting-Fragment")) return; // of a proxy, whose clock may be ahead
  const now = Number(headers.get("Voting-Clock")) || Date.parse(headers.get("Date"));
  if (now) setAhead(Date.now() - now);
});
setAhead(ahead);
tick();
setInterval(tick, 250);
document.addEventListener("htmx:after:swap", tick);
document.addEventListener("voting:lost", tick);
