// Keeps the title up to date, and tells screen readers the totals now and then: not each second.
const PAUSE = 30000; // milliseconds
const spoken = document.getElementById("spoken");
let last = Date.now();
let told = "";

function text(part) {
  return part ? part.textContent.trim().replace(/\s+/g, " ") : "";
}

function tell() {
  const rows = [...document.querySelectorAll(".row")];
  const brief = (row) => `${text(row.querySelector(".name"))} ${text(row.querySelector(".share"))}`;
  const leading = document.querySelector(".leading");
  document.title = (leading ? `${brief(leading)} · ` : "") + spoken.dataset.title;
  const turnout = text(document.querySelector(".turnout"));
  const now = rows.some((row) => row.querySelector(".share"))
    ? `${rows.map(brief).join(", ")}. ${turnout}`
    : turnout;
  if (now === told) return;
  if (told && Date.now() - last < PAUSE) return;
  if (told) spoken.textContent = now; // at first, the page itself is read
  told = now;
  last = Date.now();
}

tell();
document.addEventListener("htmx:after:swap", tell);
