// Tables and charts.
const seriesColor = (index) => `var(--${two && index === 0 ? "first" : "second"})`;

function key() {
  return make("span", {}, ...report.names.flatMap((name, index) => [
    make("span", { className: "key", style: `background:${seriesColor(index)}` }), name]));
}

function showSummary() {
  const table = make("table", {}, make("caption", { style: "text-align:left;font-weight:600" }, "per cent"));
  const head = table.createTHead().insertRow();
  for (const text of ["score", ...report.names, ...(two ? ["change"] : [])]) head.append(make("th", { scope: "col" }, text));
  const body = table.createTBody();
  for (const name of Object.keys(report.results[0].summary)) {
    const values = report.results.map((result) => result.summary[name]);
    const row = body.insertRow();
    row.append(make("td", {}, name), ...values.map((value) => make("td", {}, percent(value))));
    if (two) row.append(make("td", {}, change(...values)));
  }
  $("summary").append(table);
}

// The distance of round numbers that part a range into three to six.
function roundStep(range) {
  const rough = (range || 1) / 4, power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
}

// Lines over an axis; values are shown in per cent where they are shares.
function chart(title, series, unit, inPercent) {
  const width = 380, height = 220, left = 44, bottom = 30, top = 10;
  const xs = series.flatMap((line) => line.x), ys = series.flatMap((line) => line.y).filter(known);
  const unitOf = inPercent ? 100 : 1, step = roundStep((Math.max(...ys) - Math.min(...ys)) * unitOf) / unitOf;
  const low = Math.floor(Math.min(...ys) / step) * step, high = Math.ceil(Math.max(...ys) / step) * step;
  const x0 = Math.min(...xs), x1 = Math.max(...xs);
  const px = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - 12);
  const py = (y) => top + (1 - (y - low) / (high - low || 1)) * (height - top - bottom);
  const show = (value) => String(Number((unitOf * value).toPrecision(4)));
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, role: "img", style: "max-width:100%" },
    svg("title", {}, `${title}: ${series.map((line) => `${line.name} ${line.y.filter(known).map(show).slice(-12).join(", ")}`).join("; ")}`));
  for (let y = low; y <= high + step / 2; y += step) {
    picture.append(svg("line", { class: "axis", x1: left, x2: width - 12, y1: py(y), y2: py(y) }),
      svg("text", { x: left - 5, y: py(y) + 4, "text-anchor": "end" }, show(y)));
  }
  const ticks = xs.length / series.length <= 8 ? series[0].x : [x0, (x0 + x1) / 2, x1];
  for (const x of ticks) picture.append(svg("text", { x: px(x), y: height - 14, "text-anchor": "middle" }, String(Math.round(x))));
  picture.append(svg("text", { x: width - 12, y: height - 1, "text-anchor": "end" }, unit));
  for (const line of series) {
    const points = line.x.map((x, n) => [px(x), py(line.y[n])]).filter((point) => point.every(Number.isFinite));
    picture.append(svg("polyline", { points: points.map((point) => point.join(",")).join(" "), fill: "none",
      "stroke-width": 2.5, style: `stroke:${line.color}` }));
    if (points.length <= 12) for (const [cx, cy] of points) picture.append(svg("circle", { cx, cy, r: 3.5, style: `fill:${line.color}` }));
  }
  return picture;
}

function showCharts() {
  const distances = Object.keys(report.results[0]?.meanBoundary ?? {}).map(Number);
  if (distances.length > 1) {
    const series = report.results.map((result, index) => ({ name: report.names[index], color: seriesColor(index),
      x: distances, y: distances.map((distance) => result.meanBoundary[distance]) }));
    $("boundary").append(make("figcaption", {}, "Boundary F-score (%)", ...(two ? [key()] : [])),
      chart("Boundary F-score", series, "pixels", true));
  }
  for (const curve of report.curves) {
    const series = [{ name: curve.title, color: "var(--second)", x: curve.x, y: curve.y }];
    $("curves").append(make("figure", {}, make("figcaption", {}, curve.title),
      chart(curve.title, series, "updates", curve.title.includes("IoU"))));
  }
}

function showClasses(sorted) {
  const iou = report.results.map((result) => result.iou);
  let order = report.classes.map((_, index) => index).filter((index) => iou.some((values) => known(values[index])));
  if (sorted) {
    const size = (index) => (two ? (iou[1][index] ?? 0) - (iou[0][index] ?? 0) : iou[0][index] ?? 0);
    order = order.sort((a, b) => size(b) - size(a));
  }
  $("classes").replaceChildren(...order.map((index) => {
    const values = iou.map((each) => each[index]);
    const bars = values.map((value, n) => make("span", { style: `width:${100 * (value ?? 0)}%;background:${seriesColor(n)}` }));
    const text = make("span", { className: "value" }, percent(values.at(-1)), " ", ...(two ? [change(...values)] : []));
    return make("div", { className: "row" }, make("span", { className: "name", title: report.classes[index] }, report.classes[index]),
      make("span", { className: "bar-pair" }, ...bars), text);
  }));
}

function confusionShares(result) {
  return result.confusion.map((row) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return row.map((count) => (total ? count / total : null));
  });
}

function showConfusion(which) {
  const shares = confusionShares(report.results[which]);
  const present = shares.map((row, index) => index).filter((index) => shares[index][0] !== null);
  const columns = report.classes.length + (shares.some((row) => (row[report.classes.length] ?? 0) > 0) ? 1 : 0);
  const names = [...report.classes, "no class"];
  const cell = Math.max(Math.min(Math.floor(520 / Math.max(present.length, 1)), 26), 4);
  const label = cell >= 12 ? 130 : 0, canvas = $("confusion"), ratio = window.devicePixelRatio || 1;
  const width = label + columns * cell, height = present.length * cell;
  Object.assign(canvas, { width: width * ratio, height: height * ratio });
  canvas.style.cssText = `width:${width}px;height:${height}px`;
  const pen = canvas.getContext("2d"), ink = getComputedStyle(document.body).color;
  pen.scale(ratio, ratio);
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  pen.font = `${Math.min(cell - 1, 12)}px system-ui, sans-serif`;
  present.forEach((truth, y) => {
    pen.fillStyle = ink;
    if (label) pen.fillText(names[truth].slice(0, 22), label - 6, (y + 0.5) * cell);
    for (let x = 0; x < columns; x++) {
      const share = shares[truth][x];
      pen.fillStyle = truth === x ? `rgba(0,114,178,${0.08 + 0.92 * share})` : `rgba(213,94,0,${0.05 + 0.95 * Math.sqrt(share)})`;
      pen.fillRect(label + x * cell, y * cell, cell - 1, cell - 1);
    }
  });
  canvas.onmousemove = (event) => {
    const x = Math.floor((event.offsetX - label) / cell), truth = present[Math.floor(event.offsetY / cell)];
    if (x < 0 || x >= columns || truth === undefined) return;
    $("confusion-cell").textContent = `${percent(shares[truth][x])} % of ${names[truth]} is ${truth === x ? "correct" : `predicted as ${names[x]}`}`;
  };
  const all = [];
  for (const truth of present) shares[truth].forEach((share, x) => { if (x !== truth && share > 0) all.push([share, truth, x]); });
  all.sort((a, b) => b[0] - a[0]);
  const table = make("table");
  const head = table.createTHead().insertRow();
  for (const text of ["ground truth", "predicted as", "%"]) head.append(make("th", { scope: "col" }, text));
  const body = table.createTBody();
  for (const [share, truth, x] of all.slice(0, 12)) {
    const row = body.insertRow();
    row.append(make("td", {}, names[truth]), make("td", { style: "text-align:left" }, names[x]), make("td", {}, percent(share)));
  }
  $("commonest").replaceChildren(table);
  $("which-confusion").replaceChildren(...(two ? report.names.map((name, index) => make("button",
    { type: "button", ariaPressed: String(index === which), onclick: () => showConfusion(index) }, name)) : []));
}
