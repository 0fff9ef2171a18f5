// One image: label maps over it, colored here, so that classes can be hidden and colors exchanged.
const view = { place: 0, mode: "", overlay: "none", hidden: new Set(), scale: 1, x: 0, y: 0, split: 0.5, width: 0, height: 0 };
const loaded = new Map();
let fitted = false; // whether the image was fitted into the open window
let current = null; // {photo, truth, labels: [Uint8Array], width, height}

const MODES = [
  { name: "image", title: "image" },
  ...(hasTruth ? [{ name: "truth", title: "ground truth" }] : [{ name: "", title: "" }]),
  { name: "first", title: report.names[0] },
  ...(two ? [{ name: "second", title: report.names[1] }, { name: "slide", title: "slide" }] : []),
];

const OVERLAYS = [
  ["none", "nothing"],
  ...(hasTruth ? [["wrong", "wrong pixels"], ["boundary", `wrong pixels within ${BOUNDARY} px of a boundary`]] : []),
  ...(two ? [["changes", "what changed"]] : []),
];

const WRONG = [["wrong", "wrong"]];
const CHANGED = [["fixed", "became right"], ["broken", "became wrong"], ["both", "wrong before and after"]];
const MARK_KEYS = { none: [], wrong: WRONG, boundary: WRONG, changes: hasTruth ? CHANGED : [["fixed", "changed"]] };

// A sample's script calls this.
window.openseg = { sample(number, content) { loaded.get(number)?.(content); } };

function load(number) {
  return new Promise((resolve, reject) => {
    loaded.set(number, resolve);
    const script = make("script", { src: `samples/${number}.js`, onerror: () => reject(new Error(`samples/${number}.js cannot be read`)) });
    script.onload = () => script.remove();
    document.head.append(script);
  });
}

async function decode(url) {
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  const canvas = make("canvas", { width: picture.naturalWidth, height: picture.naturalHeight });
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(picture, 0, 0);
  const pixels = pen.getImageData(0, 0, canvas.width, canvas.height).data;
  const values = new Uint8Array(canvas.width * canvas.height);
  for (let n = 0; n < values.length; n++) values[n] = pixels[4 * n];
  return { values, width: canvas.width, height: canvas.height };
}

// Browsers refuse to change it many times a second.
function setAddress(address) {
  try { history.replaceState(null, "", address); } catch { /* then it stays */ }
}

async function openSample(place) {
  if (place < 0 || place >= shown.length) return;
  view.place = place;
  const sample = shown[place];
  $("viewer-title").textContent = sample.name;
  $("viewer-values").replaceChildren(...numbersOf(sample));
  const opening = !$("viewer").open;
  if (opening) $("viewer").showModal();
  if (opening || [$("previous"), $("next")].includes(document.activeElement)) $("stage").focus(); // they may be disabled now
  $("previous").disabled = place === 0;
  $("next").disabled = place === shown.length - 1;
  $("wait").hidden = false;
  $("wait").textContent = "loading ...";
  setAddress(`#${encodeURIComponent(sample.name)}`);
  try {
    const content = await load(sample.number);
    const maps = await Promise.all([content.truth, ...content.labels].map((url) => (url ? decode(url) : null)));
    if (shown[view.place]?.number !== sample.number || !$("viewer").open) return; // another one was opened meanwhile
    const [truth, ...labels] = maps;
    const same = current && current.width === labels[0].width && current.height === labels[0].height;
    current = { photo: content.image, truth: truth && truth.values, labels: labels.map((each) => each.values),
      width: labels[0].width, height: labels[0].height };
    $("photo").hidden = !content.image;
    if (content.image) $("photo").src = content.image;
    for (const id of ["left", "right", "marks"]) Object.assign($(id), { width: current.width, height: current.height });
    $("layers").style.cssText += `;width:${current.width}px;height:${current.height}px`;
    showLegend();
    draw();
    if (!same || opening || !fitted) fit();
    placeLayers();
    $("wait").hidden = true;
  } catch (error) {
    if (shown[view.place]?.number !== sample.number) return;
    current = null;
    for (const id of ["photo", "left", "right", "marks"]) $(id).hidden = true;
    $("wait").textContent = `${error.message}: copy the whole folder of the report`;
  }
}

function table(alpha) {
  const colors = new Uint32Array(256); // of class 255 and others: transparent
  (safe ? report.safe : report.colors).forEach(([red, green, blue], index) => {
    if (!view.hidden.has(index)) colors[index] = ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
  });
  return colors;
}

function paint(canvas, values, colors) {
  const pen = canvas.getContext("2d"), picture = pen.createImageData(current.width, current.height);
  const pixels = new Uint32Array(picture.data.buffer);
  for (let n = 0; n < pixels.length; n++) pixels[n] = colors[values[n]];
  pen.putImageData(picture, 0, 0);
}

function draw() {
  if (!current) return;
  const pale = view.overlay === "none" ? 1 : 0.4; // so that marks stand out
  const colors = table(Math.round(2.55 * pale * Number(current.photo ? $("opacity").value : 100)));
  const slide = view.mode === "slide";
  const values = { truth: current.truth, first: current.labels[0], second: current.labels[1] }[slide ? "first" : view.mode];
  $("left").hidden = !values;
  if (values) paint($("left"), values, colors);
  $("right").hidden = $("split").hidden = $("slider").hidden = !slide;
  if (slide) paint($("right"), current.labels[1], colors);
  $("marks").hidden = $("marks-key").hidden = view.overlay === "none";
  $("marks-key").replaceChildren(...MARK_KEYS[view.overlay].flatMap(([mark, text]) => [
    make("span", { className: "key", style: `background:rgb(${MARKS[mark]})` }), text]));
  if (view.overlay !== "none") mark();
  for (const button of $("views").children) button.ariaPressed = String(button.dataset.mode === view.mode);
  $("overlay").value = view.overlay;
}

// Pixels within some pixels of another class in the ground truth: a box filter of its boundaries, rows then columns.
function nearOutline() {
  if (current.near) return current.near;
  const { truth, width, height } = current;
  const spread = (from, lines, length, step, next) => {
    const to = new Uint8Array(from.length);
    for (let line = 0; line < lines; line++) {
      let last = -Infinity;
      for (let n = 0; n < length + BOUNDARY; n++) {
        if (n < length && from[line * next + n * step]) last = n;
        const place = n - BOUNDARY;
        if (place >= 0 && n - last <= 2 * BOUNDARY) to[line * next + place * step] = 1;
      }
    }
    return to;
  };
  const edges = new Uint8Array(truth.length);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const n = y * width + x;
    if ((x + 1 < width && truth[n] !== truth[n + 1]) || (y + 1 < height && truth[n] !== truth[n + width])) edges[n] = 1;
  }
  current.near = spread(spread(edges, height, width, 1, width), width, height, width, 1);
  return current.near;
}

function mark() {
  const pen = $("marks").getContext("2d"), picture = pen.createImageData(current.width, current.height);
  const pixels = new Uint32Array(picture.data.buffer), { truth, labels } = current;
  const color = Object.fromEntries(Object.entries(MARKS).map(([name, [red, green, blue]]) => [name, (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0]));
  const [first, second] = [labels[0], labels.at(-1)];
  const ignored = (n) => truth && truth[n] >= report.classes.length;
  const visible = (n, values) => !view.hidden.has(truth ? truth[n] : values[n]);
  if (view.overlay === "changes") {
    for (let n = 0; n < pixels.length; n++) {
      if (first[n] === second[n] || ignored(n) || !visible(n, second)) continue;
      pixels[n] = !truth || second[n] === truth[n] ? color.fixed : first[n] === truth[n] ? color.broken : color.both;
    }
  } else {
    const near = view.overlay === "boundary" ? nearOutline() : null;
    const border = view.split * current.width;
    for (let n = 0; n < pixels.length; n++) {
      if (ignored(n) || (near && !near[n]) || !visible(n, second)) continue;
      const before = view.mode === "first" || (view.mode === "slide" && n % current.width < border);
      if ((before ? first : second)[n] !== truth[n]) pixels[n] = color.wrong;
    }
  }
  pen.putImageData(picture, 0, 0);
}

function placeLayers() {
  if (!current) return;
  const { scale, x, y } = view;
  $("layers").style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
  const border = current ? current.width * view.split : 0;
  $("left").style.clipPath = view.mode === "slide" ? `inset(0 ${current.width - border}px 0 0)` : "";
  $("right").style.clipPath = `inset(0 0 0 ${border}px)`;
  $("split").style.left = `${Math.min(Math.max(x + scale * border, 0), $("stage").clientWidth)}px`;
  $("slider").value = Math.round(1000 * view.split);
}

function fit() {
  if (!current) return;
  fitted = true;
  const stage = $("stage");
  view.scale = Math.min(stage.clientWidth / current.width, stage.clientHeight / current.height) || 1;
  view.x = (stage.clientWidth - view.scale * current.width) / 2;
  view.y = (stage.clientHeight - view.scale * current.height) / 2;
  placeLayers();
}

function zoom(factor, x = $("stage").clientWidth / 2, y = $("stage").clientHeight / 2) {
  const scale = Math.min(Math.max(view.scale * factor, 0.05), 40);
  view.x = x - ((x - view.x) * scale) / view.scale;
  view.y = y - ((y - view.y) * scale) / view.scale;
  view.scale = scale;
  placeLayers();
}

function setSplit(share) {
  view.split = Math.min(Math.max(share, 0), 1);
  placeLayers();
  if (["wrong", "boundary"].includes(view.overlay)) mark();
}

function setMode(mode) {
  view.mode = mode;
  draw();
  placeLayers();
}

function showLegend() {
  const present = new Set();
  for (const values of [current.truth, ...current.labels]) if (values) for (let n = 0; n < values.length; n++) present.add(values[n]);
  const chips = report.classes.map((name, index) => {
    const [red, green, blue] = (safe ? report.safe : report.colors)[index];
    const chip = make("button", { type: "button", ariaPressed: String(!view.hidden.has(index)), onclick: () => toggle(index), ondblclick: () => alone(index) },
      make("span", { className: "chip", style: `background:rgb(${red},${green},${blue})` }), name);
    chip.dataset.index = index;
    return present.has(index) ? chip : null;
  });
  const all = make("button", { type: "button", id: "all-classes", onclick: () => { view.hidden.clear(); refreshLegend(); } }, "all");
  $("legend").replaceChildren($("legend").firstElementChild, ...chips.filter(Boolean), all);
}

function refreshLegend() {
  for (const chip of $("legend").querySelectorAll("[data-index]")) chip.ariaPressed = String(!view.hidden.has(Number(chip.dataset.index)));
  draw();
}

function toggle(index) {
  if (!view.hidden.delete(index)) view.hidden.add(index);
  refreshLegend();
}

function alone(index) {
  view.hidden = new Set(report.classes.map((_, other) => other).filter((other) => other !== index));
  refreshLegend();
}

function tellUnder(event) {
  if (!current) return;
  const box = $("stage").getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left - view.x) / view.scale), y = Math.floor((event.clientY - box.top - view.y) / view.scale);
  if (x < 0 || y < 0 || x >= current.width || y >= current.height) return;
  const n = y * current.width + x, nameOf = (values) => report.classes[values[n]] ?? "no class";
  const parts = current.labels.map((values, index) => `${report.names[index]}: ${nameOf(values)}`);
  $("under").textContent = [`${x}, ${y}`, ...(current.truth ? [`ground truth: ${nameOf(current.truth)}`] : []), ...parts].join("  ·  ");
}

function setUpPointers() {
  const stage = $("stage"), pointers = new Map();
  let sliding = false;
  const at = (event) => { const box = stage.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  stage.addEventListener("dragstart", (event) => event.preventDefault()); // of the photo; it would end the sliding
  stage.addEventListener("pointerdown", (event) => {
    sliding = event.target.closest("#split") !== null;
    pointers.set(event.pointerId, at(event));
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    tellUnder(event);
    const before = pointers.get(event.pointerId);
    if (!before || !current) return;
    const now = at(event);
    pointers.set(event.pointerId, now);
    if (sliding) return setSplit((now[0] - view.x) / view.scale / current.width);
    const others = [...pointers.keys()].filter((id) => id !== event.pointerId);
    if (others.length) {
      const other = pointers.get(others[0]), length = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
      return zoom(length(now) / Math.max(length(before), 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
    view.x += now[0] - before[0];
    view.y += now[1] - before[1];
    return placeLayers();
  });
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => pointers.delete(event.pointerId));
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), ...at(event));
  }, { passive: false });
}

function setUpKeys() {
  $("viewer").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const ranged = event.target.matches("input[type=range], select"); // they use the arrows themselves
    const actions = {
      ArrowLeft: ranged ? null : () => openSample(view.place - 1),
      ArrowRight: ranged ? null : () => openSample(view.place + 1),
      "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: fit,
      e: nextOverlay, E: nextOverlay, c: () => setSafe(!safe), C: () => setSafe(!safe),
    };
    MODES.forEach((mode, index) => { if (mode.name) actions[index + 1] = () => setMode(mode.name); });
    const action = actions[event.key];
    if (action) { event.preventDefault(); action(); }
  });
}

function setSafe(wanted) {
  safe = wanted;
  $("safe").checked = $("safe-here").checked = safe;
  try { localStorage.setItem("openseg-safe", safe ? "1" : "0"); } catch { /* then it is asked again */ }
  showGallery();
  if (current) { showLegend(); draw(); }
}

function nextOverlay() {
  const names = OVERLAYS.map(([name]) => name);
  view.overlay = names[(names.indexOf(view.overlay) + 1) % names.length];
  draw();
}

function setUpViewer() {
  view.mode = two ? "slide" : "first";
  $("views").append(...MODES.flatMap((mode, index) => {
    if (!mode.name) return [];
    const button = make("button", { type: "button", title: `key ${index + 1}`, onclick: () => setMode(mode.name) }, mode.title);
    button.dataset.mode = mode.name;
    return [button, " "];
  }).slice(0, -1));
  $("tag-left").textContent = report.names[0];
  $("tag-right").textContent = report.names[1] ?? "";
  $("overlay").append(...OVERLAYS.map(([value, title]) => make("option", { value }, title)));
  $("overlay").addEventListener("input", () => { view.overlay = $("overlay").value; draw(); });
  $("opacity").addEventListener("input", draw);
  $("slider").addEventListener("input", () => setSplit(Number($("slider").value) / 1000));
  $("previous").onclick = () => openSample(view.place - 1);
  $("next").onclick = () => openSample(view.place + 1);
  $("close").onclick = () => $("viewer").close();
  $("zoom-in").onclick = () => zoom(1.5);
  $("zoom-out").onclick = () => zoom(1 / 1.5);
  $("fit").onclick = fit;
  $("viewer").addEventListener("close", () => {
    fitted = false;
    setAddress(location.pathname + location.search);
    $("gallery").children[view.place]?.firstElementChild.focus();
  });
  window.addEventListener("resize", () => { if (current && $("viewer").open) fit(); });
  setUpPointers();
  setUpKeys();
}
