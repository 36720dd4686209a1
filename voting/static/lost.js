// Says what no answer of the server can say: that there was none. What is not the app's own, such
// as a proxy's error page, is no answer either, and must not take the place of the page's parts.
function sayLost({ target }) {
  const lost = document.querySelector("template.lost");
  if (!lost || target.id !== lost.dataset.of) return;
  const notes = target.querySelector(".notes");
  if (notes.querySelector(".lost")) return;
  notes.replaceChildren(lost.content.cloneNode(true));
  const time = notes.querySelector("time");
  if (time) time.textContent = new Date().toLocaleTimeString();
}

document.addEventListener("htmx:error", sayLost);
document.addEventListener("htmx:before:response", (event) => {
  if (event.detail.ctx.response.headers.has("Voting-Fragment")) return;
  event.preventDefault();
  sayLost(event);
});
