// Updates the title with each poll, and announces the totals to screen readers every 30 s at most.
const PAUSE = 30000; // milliseconds
const spoken = document.getElementById("spoken");
let last = Date.now();
let announced = "";

function text(part) {
  return part ? part.textContent.trim().replace(/\s+/g, " ") : "";
}

function announce() {
  const rows = [...document.querySelectorAll(".row")];
  const brief = (row) => `${text(row.querySelector(".name"))} ${text(row.querySelector(".share"))}`;
  const leading = document.querySelector(".leading");
  document.title = (leading ? `${brief(leading)} · ` : "") + spoken.dataset.title;
  const turnout = text(document.querySelector(".turnout"));
  const now = rows.some((row) => row.querySelector(".share"))
    ? `${rows.map(brief).join(", ")}. ${turnout}`
    : turnout;
  if (now === announced) return;
  if (announced && Date.now() - last < PAUSE) return;
  if (announced) spoken.textContent = now; // screen readers read the page itself first
  announced = now;
  last = Date.now();
}

announce();
document.addEventListener("htmx:after:swap", announce);
