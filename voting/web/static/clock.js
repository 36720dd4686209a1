// Turns the time when voting closes into how long it is until then, and the time of what is old
// into how long ago that was. Screen readers hear neither.
const clock = document.querySelector('meta[name="clock"]');
// This machine's clock, which may be set to anything, less the server's.
let ahead = clock ? Date.now() - Number(clock.content) : 0;

function spell(seconds) {
  const parts = [
    [Math.floor(seconds / 3600), "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"],
  ];
  while (parts.length > 1 && parts[0][0] === 0) parts.shift();
  return parts.map((part) => part.join(" ")).join(" ");
}

function show(time, text, seconds) {
  const words = text.replace("{}", spell(seconds));
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

document.addEventListener("htmx:before:response", ({ detail }) => {
  const date = Date.parse(detail.ctx.response.headers.get("Date"));
  if (date) ahead = Date.now() - date;
});
tick();
setInterval(tick, 250);
document.addEventListener("htmx:after:swap", tick);
document.addEventListener("voting:lost", tick);
