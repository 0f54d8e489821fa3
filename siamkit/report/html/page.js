"use strict";
(async () => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const thumbs = read("thumbs");
  const source = (number) => "data:image/webp;base64," + thumbs[number];
  for (const image of document.querySelectorAll("img[data-thumb]")) {
    image.src = source(image.dataset.thumb);
  }

  // The plotting library is compressed, since it would be most of the file.
  async function library() {
    const packed = Uint8Array.from(atob(document.getElementById("library").textContent.trim()),
      (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  const charts = read("charts");
  const plots = [...document.querySelectorAll("[data-chart]")];
  const showNote = (text) => {
    for (const plot of plots) {
      const note = document.createElement("p");
      note.className = "empty";
      note.textContent = text;
      plot.style.height = "auto";
      plot.replaceChildren(note);
    }
  };
  if (plots.length) {
    try {
      await library();
    } catch (error) {
      showNote("Charts need a browser from 2023 or later. The tables below hold the numbers.");
      return;
    }
  }
  const coarse = matchMedia("(pointer: coarse)").matches;
  const options = { displayModeBar: false, responsive: true, showTips: false, doubleClick: "reset" };
  for (const plot of plots) {
    const chart = charts[plot.dataset.chart];
    // A finger on the map scrolls the page.
    if (coarse) chart.layout.dragmode = false;
    // Plotly changes the layout that it is given.
    await Plotly.newPlot(plot, chart.data, structuredClone(chart.layout), options);
  }

  // On paper a chart is drawn for the width of its column, and fitted to that width, so that the
  // text keeps its size. Plotly must draw everything at once: later changes would not be printed.
  const SMALLEST = 11; // pixels, a bit more than 8 points
  const onPaper = (plot) => {
    const { height } = charts[plot.dataset.chart].layout;
    if (!plot.closest(".wide:not(.keyed)")) return { width: 336, height: Math.min(height, 184) };
    // The rows of a plan hold text.
    return { width: 700, height: Math.min(height, plot.dataset.chart === "plan" ? 860 : 340) };
  };
  addEventListener("beforeprint", () => {
    for (const plot of plots) {
      const { width, height } = onPaper(plot);
      Plotly.relayout(plot, { width, height, "font.size": SMALLEST });
      plot.style.aspectRatio = `${width} / ${height}`;
      for (const svg of plot.querySelectorAll(".main-svg")) {
        svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
        svg.setAttribute("preserveAspectRatio", "xMinYMin meet");
      }
    }
  });
  addEventListener("afterprint", () => {
    for (const plot of plots) {
      plot.style.aspectRatio = "";
      for (const svg of plot.querySelectorAll(".main-svg")) {
        svg.removeAttribute("viewBox");
        svg.removeAttribute("preserveAspectRatio");
      }
      const { height, font } = charts[plot.dataset.chart].layout;
      Plotly.relayout(plot, { autosize: true, width: null, height, "font.size": font.size });
    }
  });

  const view = document.getElementById("map-view");
  if (view) exploreMap(view, read("items"), thumbs, source);
  document.documentElement.dataset.ready = "yes";
})();

function exploreMap(view, items, thumbs, source) {
  const tip = document.getElementById("tip");
  const [image, missing, label, file, verdict] = tip.children;
  const choice = document.getElementById("class");
  const status = document.getElementById("map-status");
  const MARKED = 3;
  const ring = document.createElement("div");
  ring.className = "ring";
  ring.hidden = true;
  view.append(ring);
  const names = new Map([...choice.options].map((option) => [option.value, option.text]));
  const nameOf = (item) => names.get(String(item.label));
  let focused = null;

  const place = (item) => {
    const { xaxis, yaxis } = view._fullLayout;
    return [xaxis._offset + xaxis.d2p(item.x), yaxis._offset + yaxis.d2p(item.y)];
  };

  function show(number) {
    const item = items[number];
    const known = Boolean(thumbs[item.image]);
    image.hidden = !known;
    missing.hidden = known;
    if (known) image.src = source(item.image);
    image.alt = nameOf(item);
    label.textContent = nameOf(item);
    file.textContent = item.name;
    verdict.textContent = item.verdict;
    const [x, y] = place(item);
    ring.style.left = `${x}px`;
    ring.style.top = `${y}px`;
    ring.hidden = false;
    tip.hidden = false;
    const box = view.getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const left = Math.min(Math.max(8, box.left + x + 16), width - tip.offsetWidth - 8);
    const covers = left < box.left + x;
    const below = covers || box.top + y + tip.offsetHeight + 8 < innerHeight;
    const top = below ? y + 16 : y - tip.offsetHeight - 16;
    tip.style.left = `${left + scrollX}px`;
    tip.style.top = `${box.top + top + scrollY}px`;
  }

  function hide() {
    tip.hidden = true;
    ring.hidden = true;
  }

  function focus(number) {
    focused = number;
    const item = items[number];
    show(number);
    status.textContent = `${nameOf(item)}, ${item.name}, ${item.verdict}`;
  }

  function mark(value) {
    const chosen = value === "" ? [] : items.filter((item) => String(item.label) === value);
    Plotly.restyle(view, { x: [chosen.map((i) => i.x)], y: [chosen.map((i) => i.y)] }, [MARKED]);
    choice.value = value;
  }

  // Returns the nearest image in a direction; distance across the direction counts twice.
  function next(dx, dy) {
    const [x, y] = place(items[focused]);
    let nearest = null;
    let shortest = Infinity;
    items.forEach((item, number) => {
      const [px, py] = place(item);
      const along = (px - x) * dx + (py - y) * dy;
      const aside = Math.abs((px - x) * dy - (py - y) * dx);
      const far = along + 2 * aside;
      if (number !== focused && along > 0 && aside <= along && far < shortest) {
        nearest = number;
        shortest = far;
      }
    });
    return nearest;
  }

  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  view.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      hide();
      mark("");
    } else if (event.key in arrows) {
      event.preventDefault();
      const number = focused === null ? 0 : next(...arrows[event.key]);
      focus(number ?? focused); // at the edge, the arrow shows the same image again
    } else if (event.key === "Enter" && focused !== null) {
      const value = String(items[focused].label);
      mark(choice.value === value ? "" : value);
    }
  });
  view.addEventListener("focus", () => {
    if (view.matches(":focus-visible")) focus(focused ?? 0);
  });
  view.addEventListener("blur", hide);
  choice.addEventListener("change", () => mark(choice.value));

  const numberOf = (event) => event.points[0].customdata;
  view.on("plotly_hover", (event) => show(numberOf(event)));
  view.on("plotly_unhover", () => hide());
  view.on("plotly_click", (event) => {
    focused = numberOf(event);
    show(focused);
  });
  view.on("plotly_relayout", hide);
}
