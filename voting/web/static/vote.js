// Marks a choice as being sent, from the click until the response.
const { content } = document.querySelector('meta[name="sending"]');

function showSent(button) {
  for (const each of document.querySelectorAll(".choice")) {
    each.querySelector(".mark").dataset.sending = content;
    each.classList.toggle("sending", each === button);
    each.classList.toggle("resting", button !== null && each !== button);
  }
}

document.addEventListener("submit", ({ submitter }) => showSent(submitter));
document.addEventListener("voting:lost", () => showSent(null));
window.addEventListener("pageshow", () => showSent(null)); // back from another page
