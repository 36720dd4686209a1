// Turns the time when voting closes into how long it is until then. Screen readers hear neither.
const clock = document.querySelector('meta[name="clock"]');
// Between the server's clock and this machine's, which may be set to anything.
const ahead = clock ? Date.now() - Number(clock.content) : 0;

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

countDown();
setInterval(countDown, 250);
document.addEventListener("htmx:after:swap", countDown);
