// Turns the time when voting closes into how long it is until then. Screen readers hear neither.
const clock = document.querySelector('meta[name="clock"]');
// This machine's clock, which may be set to anything, less the server's.
let ahead = clock ? Date.now() - Number(clock.content) : 0;

function countDown() {
  for (const time of document.querySelectorAll(".closes time")) {
    const seconds = Math.ceil((Date.parse(time.dateTime) - (Date.now() - ahead)) / 1000);
    if (seconds <= 0) {
      time.parentElement.textContent = "Voting is closed.";
      continue;
    }
    const parts = [
      [Math.floor(seconds / 3600), "h"],
      [Math.floor(seconds / 60) % 60, "min"],
      [seconds % 60, "s"],
    ];
    while (parts[0][0] === 0) parts.shift();
    time.textContent = `in ${parts.map((part) => part.join(" ")).join(" ")}`;
  }
}

document.addEventListener("htmx:before:response", ({ detail }) => {
  const date = Date.parse(detail.ctx.response.headers.get("Date"));
  if (date) ahead = Date.now() - date;
});
countDown();
setInterval(countDown, 250);
document.addEventListener("htmx:after:swap", countDown);
