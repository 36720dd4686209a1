// Says what no answer of the server can say: that there was none.
document.addEventListener("htmx:error", (event) => {
  const lost = document.querySelector("template.lost");
  if (!lost || event.target.id !== lost.dataset.of) return;
  const notes = event.target.querySelector(".notes");
  if (notes.querySelector(".lost")) return;
  notes.replaceChildren(lost.content.cloneNode(true));
  const time = notes.querySelector("time");
  if (time) time.textContent = new Date().toLocaleTimeString();
});
