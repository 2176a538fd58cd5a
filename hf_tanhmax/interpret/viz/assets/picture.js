// An image under the scores of its patches.

let photograph = null; // without its colours, so that every colour is a score; a plain sheet where the page has no image

async function loadPhotograph() {
  const [rows, columns] = now().grid;
  find("original").hidden = !now().image;
  if (!now().image) {
    photograph = smallCanvas(16 * columns, 16 * rows, () => [128, 128, 128, 255]);
    return;
  }
  const image = new Image();
  image.src = now().image;
  await image.decode();
  find("original").src = image.src;
  photograph = element("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = photograph.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, photograph.width, photograph.height);
  for (let at = 0; at < pixels.data.length; at += 4) {
    const [red, green, blue] = pixels.data.subarray(at, at + 3);
    pixels.data.fill(Math.round(0.299 * red + 0.587 * green + 0.114 * blue), at, at + 3);
  }
  context.putImageData(pixels, 0, 0);
}

// A canvas with a pixel for each cell; an empty one has a pixel that cannot be seen.
function smallCanvas(columns, rows, colour) {
  const [wide, high] = [Math.max(1, columns), Math.max(1, rows)];
  const canvas = element("canvas", { width: wide, height: high });
  const pixels = new ImageData(wide, high);
  for (let at = 0; at < columns * rows; at++) {
    const [red, green, blue, alpha] = colour(at);
    pixels.data.set([red, green, blue, alpha ?? 255], 4 * at);
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// Draw image and overlay; the strongest score covers the grey image as far as the slider says, and zero not at all.
function drawPicture(context, width, height, one = now()) {
  const [rows, columns] = one.grid;
  const { scores } = evidence(one);
  const reach = evidenceReach();
  const strength = find("strength").value / 100;
  context.drawImage(photograph, 0, 0, width, height);
  const over = smallCanvas(columns, rows, (at) => {
    const colour = PALETTES.light[scores[at] < 0 ? Math.round(STEPS / 6) : Math.round((5 * STEPS) / 6)];
    return [...colour, Math.round(255 * strength * Math.min(1, Math.abs(scores[at]) / reach))];
  });
  context.imageSmoothingEnabled = find("smooth").checked;
  context.imageSmoothingQuality = "high";
  context.drawImage(over, 0, 0, width, height);
}

function paintPicture() {
  const canvas = find("picture");
  const [rows, columns] = now().grid;
  const larger = Math.max(1, Math.round(520 / photograph.width));
  [canvas.width, canvas.height] = [photograph.width * larger, photograph.height * larger];
  const context = canvas.getContext("2d");
  drawPicture(context, canvas.width, canvas.height);
  if (twin()) {
    const beside = find("twin-picture");
    [beside.width, beside.height] = [canvas.width, canvas.height];
    drawPicture(beside.getContext("2d"), beside.width, beside.height, twin());
  }
  const place = now().word_of[placeOf(chosen.query)];
  if (place !== null) {
    context.lineWidth = 2;
    context.strokeStyle = "#ffffff";
    context.strokeRect(((place % columns) * canvas.width) / columns, (Math.floor(place / columns) * canvas.height) / rows, canvas.width / columns, canvas.height / rows);
  }
  legend(find("evidence-legend"), evidenceReach(), methodName(), false);
}

function listenToPicture() {
  const canvas = find("picture");
  const patchAt = (event) => {
    const box = canvas.getBoundingClientRect();
    const [rows, columns] = now().grid;
    const [across, down] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    return Math.min(rows - 1, Math.max(0, Math.floor(down * rows))) * columns + Math.min(columns - 1, Math.max(0, Math.floor(across * columns)));
  };
  canvas.addEventListener("pointermove", (event) => tellToken(patchAt(event)));
  canvas.addEventListener("click", (event) => chooseToken(patchAt(event)));
  canvas.addEventListener("keydown", (event) => {
    const [rows, columns] = now().grid;
    const patch = now().word_of[placeOf(chosen.query)] ?? 0;
    const place = moved(event, [Math.floor(patch / columns), patch % columns], [rows, columns]);
    if (place) chooseToken(place[0] * columns + place[1], { speak: true });
  });
  for (const name of ["smooth", "strength"]) find(name).addEventListener("input", paintPicture);
}
