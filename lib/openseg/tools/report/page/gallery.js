// The images, sorted.
let shown = [];
let safe = false;
try { safe = localStorage.getItem("openseg-safe") === "1"; } catch { /* storage may be forbidden */ }

const measure = () => Number($("measure").value || 0);
const valueOf = (sample, place) => sample.values[place]?.[measure()] ?? null;
const gain = (sample) => {
  const [first, second] = [valueOf(sample, 0), valueOf(sample, 1)];
  return known(first) && known(second) ? second - first : null;
};

const ORDERS = {
  gain: { title: "greatest gain", of: (sample) => gain(sample), down: true, two: true },
  loss: { title: "greatest loss", of: (sample) => gain(sample), down: false, two: true },
  worst: { title: "worst", of: (sample) => valueOf(sample, report.names.length - 1), down: false },
  best: { title: "best", of: (sample) => valueOf(sample, report.names.length - 1), down: true },
  name: { title: "name", of: null },
};
if (!hasTruth && two) ORDERS.loss.title = "most changed";

function setUpTools() {
  const names = Object.keys(ORDERS).filter((name) => {
    if (!report.measures.length || (!hasTruth && !["loss", "name"].includes(name))) return name === "name";
    return two || !ORDERS[name].two;
  });
  if (!hasTruth && two) names.sort();
  $("sort").append(...names.map((name) => make("option", { value: name }, ORDERS[name].title)));
  $("measure").append(...report.measures.map((name, index) => make("option", { value: index }, name)));
  $("measure-label").hidden = report.measures.length < 2;
  for (const id of ["sort", "measure", "filter"]) $(id).addEventListener("input", showGallery);
}

function showGallery() {
  const order = ORDERS[$("sort").value], wanted = $("filter").value.toLowerCase();
  shown = report.samples.map((sample, number) => ({ ...sample, number })).filter((sample) => sample.name.toLowerCase().includes(wanted));
  if (order.of) {
    const last = order.down ? -Infinity : Infinity; // what has no value
    shown.sort((a, b) => (order.down ? -1 : 1) * ((order.of(a) ?? last) - (order.of(b) ?? last)) || a.number - b.number);
  } else shown.sort((a, b) => (a.name < b.name ? -1 : 1));
  const left = report.total - report.samples.length;
  $("count").textContent = `${shown.length} of ${report.samples.length} images` + (left ? `; ${left} more are in the scores only` : "");
  $("gallery").replaceChildren(...shown.map((sample, place) => make("li", {}, card(sample, place))));
}

function numbersOf(sample) {
  const values = sample.values.map((each) => each[measure()]);
  if (!hasTruth) return two && report.measures.length ? [`${percent(1 - values[1])} % changed`] : [];
  return two ? [`${percent(values[0])} → ${percent(values[1])} `, change(...values)] : [percent(values[0])];
}

function card(sample, place) {
  const panels = [...(hasTruth ? ["ground truth"] : []), ...report.names].join(", ");
  return make("button", { type: "button", className: "card", onclick: () => openSample(place) },
    make("img", { src: `thumbs/${sample.number}${safe ? "_safe" : ""}.jpg`, loading: "lazy", decoding: "async",
      width: sample.thumb[0], height: sample.thumb[1], alt: `image, ${panels}` }),
    make("span", { className: "line" }, make("span", { className: "name" }, sample.name),
      make("span", { className: "numbers" }, ...numbersOf(sample))));
}
