function start() {
  $("about").textContent = `${report.dataset} · ${report.total} images · ${report.names.join(" and ")}`;
  for (const id of ["safe", "safe-here"]) $(id).addEventListener("change", (event) => setSafe(event.target.checked));
  $("scores").hidden = !hasTruth && !report.curves.length;
  if (hasTruth) {
    showSummary();
    showClasses(false);
    $("sort-classes").hidden = false;
    $("sort-classes").onclick = (event) => {
      const sorted = event.target.ariaPressed !== "true";
      event.target.ariaPressed = String(sorted);
      showClasses(sorted);
    };
    if (!two) $("sort-classes").textContent = "sort by IoU";
    $("confusions").addEventListener("toggle", () => { if ($("confusions").open) showConfusion(report.names.length - 1); }, { once: false });
  } else for (const element of document.querySelectorAll("#scores h3, #confusions")) element.hidden = true;
  showCharts();
  setUpTools();
  setUpViewer();
  setSafe(safe);
  let wanted = "";
  try { wanted = decodeURIComponent(location.hash.slice(1)); } catch { /* no address of ours */ }
  const place = shown.findIndex((sample) => sample.name === wanted);
  if (wanted && place >= 0) openSample(place);
}

start();
