"use strict";
// What a form cannot do by itself: say that it works, send on Enter, and take an image that is dropped anywhere.
const form = document.querySelector("form");
const button = form.querySelector("button");
const said = document.getElementById("said");
const image = form.querySelector("input[type=file]");
const text = form.querySelector("textarea");
const answer = document.querySelector("iframe");

const busy = (isBusy) => {
  button.disabled = isBusy;
  if (isBusy) said.textContent = "The model reads it …";
};

form.addEventListener("submit", (event) => {
  const size = image?.files[0]?.size ?? 0;
  const largest = Number(form.dataset.largest) - 4096; // room for the rest of the form
  if (size > largest) {
    event.preventDefault();
    said.textContent = `The image is larger than ${Math.floor(largest / 2 ** 20)} MiB; choose a smaller one.`;
    return;
  }
  busy(true);
});
answer.addEventListener("load", () => {
  if (button.disabled) said.textContent = "";
  busy(false);
});
text?.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!button.disabled) form.requestSubmit();
  }
});
if (image) {
  image.addEventListener("change", () => { if (image.files.length) form.requestSubmit(); });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", () => document.body.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    if (!event.dataTransfer.files.length || button.disabled) return;
    image.files = event.dataTransfer.files;
    form.requestSubmit();
  });
}
