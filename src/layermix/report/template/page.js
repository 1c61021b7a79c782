"use strict";
(() => {
  const { figures, searches } = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 20, DIGITS = 4, PADDING = 70, RELOAD_MS = 10000;

  const cell = (row, value, kind = "td") => {
    const made = row.appendChild(document.createElement(kind));
    made.textContent = typeof value === "number" && !Number.isInteger(value) ? value.toFixed(DIGITS) : value ?? "–";
    return made;
  };

  // The table behind a figure is made when it is opened, from the figure's own data.
  const fillNumbers = (place, datasets) => {
    for (const [name, rows] of Object.entries(datasets)) {
      if (!rows.length || name.startsWith("_")) continue;
      const columns = [...new Set(rows.flatMap(Object.keys))];
      const table = place.appendChild(document.createElement("table"));
      if (name !== "rows") table.createCaption().textContent = name;
      const head = table.createTHead().insertRow();
      columns.forEach((column) => (cell(head, column, "th").scope = "col"));
      const body = table.createTBody();
      rows.forEach((row) => { const line = body.insertRow(); columns.forEach((column) => cell(line, row[column])); });
    }
  };

  const draw = async (figure) => {
    const spec = figures[figure.dataset.figure];
    const { steps, cell: width } = spec.usermeta;
    const place = figure.querySelector(".chart");
    const details = figure.querySelector("details");
    details.addEventListener("toggle", () => {
      const target = details.querySelector(".scroll");
      if (details.open && !target.childElementCount) fillNumbers(target, spec.datasets);
    });
    if (spec.columns) spec.columns = Math.max(1, Math.min(spec.columns, Math.floor(place.clientWidth / (width + PADDING))));
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const { view } = await vegaEmbed(place, spec, { renderer: "svg", actions: false, tooltip: { theme: dark ? "dark" : "light" } });
    const svg = place.querySelector("svg"); // its container has the name, and its numbers a table
    svg.removeAttribute("role");
    svg.setAttribute("aria-hidden", "true");
    if (place.scrollWidth > place.clientWidth) place.tabIndex = 0; // so that a keyboard can scroll it
    const slider = figure.querySelector("input[type=range]");
    if (!slider) return;
    const shown = figure.querySelector("output");
    const move = () => {
      shown.value = steps[slider.value];
      slider.setAttribute("aria-valuetext", `step ${steps[slider.value]}`);
      view.signal("frame", Number(slider.value)).runAsync();
    };
    slider.addEventListener("input", move);
    move();
  };

  const makeSearch = (place) => {
    const rows = searches[Number(place.dataset.search)];
    const known = rows.map((row) => row.join(" ").toLowerCase());
    const [input, output, button] = ["input", "output", "button"].map((name) => place.querySelector(name));
    const body = place.querySelector("tbody");
    let most = PAGE;
    const show = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const found = rows.filter((_, at) => words.every((word) => known[at].includes(word)));
      body.replaceChildren();
      found.slice(0, most).forEach((row) => { const line = body.insertRow(); row.forEach((value) => cell(line, value)); });
      output.value = `${found.length} of ${rows.length} rows`;
      button.hidden = found.length <= most;
    };
    input.addEventListener("input", () => { most = PAGE; show(); });
    button.addEventListener("click", () => { most += PAGE; show(); });
    show();
  };

  // The page of a running run reloads itself, but not while somebody uses it.
  const keepLive = (button) => {
    const busy = () =>
      document.activeElement.matches("input, summary") ||
      document.querySelector("figure details[open]") ||
      [...document.querySelectorAll("input[type=search]")].some((input) => input.value);
    const isOn = () => button.getAttribute("aria-pressed") === "true";
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(!isOn()));
      button.textContent = isOn() ? "Reloads automatically" : "Does not reload";
    });
    setInterval(() => { if (isOn() && !busy()) location.reload(); }, RELOAD_MS);
  };

  document.querySelectorAll(".search").forEach(makeSearch);
  document.querySelectorAll("#live").forEach(keepLive);
  (async () => {
    for (const figure of document.querySelectorAll("figure[data-figure]")) {
      try { await draw(figure); } catch (error) { console.error(`${figure.dataset.figure}: ${error}`); }
    }
    document.documentElement.dataset.drawn = "yes";
  })();
})();
