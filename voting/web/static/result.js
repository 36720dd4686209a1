// Updates the title with each poll, and announces to screen readers a new question at once, and the
// totals every 30 s at most.
const PAUSE = 30000; // milliseconds
const spoken = document.getElementById("spoken");
let last = Date.now();
let announced = "";
let { round } = document.getElementById("tally").dataset;

function text(part) {
  return part ? part.textContent.trim().replace(/\s+/g, " ") : "";
}

function announce() {
  const tally = document.getElementById("tally");
  const rows = [...tally.querySelectorAll(".row")];
  document.title = tally.dataset.title;
  const isNew = tally.dataset.round !== round;
  ({ round } = tally.dataset);
  if (isNew) document.getElementById("timeline")?.dispatchEvent(new Event("again"));
  const brief = (row) =>
    `${text(row.querySelector(".name"))} ${isNew ? "" : text(row.querySelector(".share"))}`.trim();
  const turnout = text(tally.querySelector(".turnout"));
  const totals = `${rows.map(brief).join(", ")}. ${turnout}`;
  const now = isNew
    ? `${text(tally.querySelector("h1"))} ${totals}`
    : tally.querySelector(".share") ? totals : turnout;
  if (now === announced) return;
  if (!isNew && announced && Date.now() - last < PAUSE) return;
  if (announced) spoken.textContent = now; // screen readers read the page itself first
  announced = now;
  last = Date.now();
}

announce();
document.addEventListener("htmx:after:swap", announce);
