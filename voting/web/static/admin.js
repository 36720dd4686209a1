// A key presses the button, follows the link or enters the field that shows it; while something is to
// be confirmed, only there. Forms with fields are sent by Enter, and lists are reached by Tab. A form
// is sent once. A time to close is one of the reader's own zone.
const PATIENCE = 10000; // milliseconds until a form can be sent again: its response may be stopped
let sent = 0;

function nameZone() {
  const zone = document.getElementById("zone");
  if (!zone || zone.dataset.named) return;
  const { lang } = document.documentElement;
  const parts = new Intl.DateTimeFormat(lang, { timeZoneName: "short" }).formatToParts();
  const { value } = parts.find((part) => part.type === "timeZoneName");
  zone.textContent = zone.dataset.here.replace("{}", value);
  zone.dataset.named = true;
}

// The next moment at which the reader's clock will show this time of day.
function nextInstant(time) {
  const now = Date.now() - Number(document.documentElement.dataset.ahead);
  const instant = new Date(now);
  instant.setHours(...time.split(":"), 0, 0);
  if (instant <= now) instant.setDate(instant.getDate() + 1);
  return instant.toISOString();
}

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const within = document.getElementById("confirm") ?? document;
  const part = within.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
  if (!part) return;
  event.preventDefault();
  part.focus();
  if (!part.matches("input")) part.click();
  part.closest("details[open]")?.querySelector("input:not([type=hidden])")?.focus();
});

document.addEventListener("submit", (event) => {
  if (Date.now() < sent + PATIENCE) {
    event.preventDefault();
    return;
  }
  sent = Date.now();
  const { time, instant } = event.target.elements;
  if (instant) instant.value = nextInstant(time.value);
  event.submitter?.classList.add("sending");
});
window.addEventListener("pageshow", () => { sent = 0; });

document.addEventListener("htmx:after:swap", () => {
  const { title } = document.getElementById("live").dataset;
  document.title = document.title.replace(/^.* · /s, () => `${title} · `); // it may have $&
  nameZone();
});
nameZone();
