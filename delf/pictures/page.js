"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const queries = [...document.querySelectorAll("section.query")];
  const dialog = byId("match");
  const svgNamespace = "http://www.w3.org/2000/svg";

  // Photos: the text of a script that is never run, by its number.
  const source = (number) =>
    "data:image/jpeg;base64," + byId("t" + number).textContent;

  const show = (section) => {
    for (const image of section.querySelectorAll("img[data-t]"))
      if (!image.hasAttribute("src")) image.src = source(image.dataset.t);
  };

  // Only what is near the window is given its photos.
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries)
      if (entry.isIntersecting) {
        show(entry.target);
        observer.unobserve(entry.target);
      }
  }, { rootMargin: "600px" });
  queries.forEach((section) => observer.observe(section));

  // Finding queries.
  const text = byId("text"), wrong = byId("wrong"), jump = byId("jump");
  const plural = (number, word, words) =>
    number.toLocaleString("en") + " " + (number === 1 ? word : words);

  const filter = () => {
    const wanted = text.value.trim().toLowerCase();
    let shown = 0;
    for (const section of queries) {
      const fits = section.dataset.name.toLowerCase().includes(wanted) &&
        (!wrong.checked || section.dataset.first === "false");
      section.hidden = !fits;
      shown += fits;
    }
    const all = plural(queries.length, "query", "queries");
    byId("count").textContent =
      shown === queries.length ? all : shown.toLocaleString("en") + " of " + all;
    byId("nothing").hidden = shown > 0 || !queries.length;
    if (byId("evaluation")) byId("evaluation").hidden = shown < queries.length;
  };

  const clear = () => {
    text.value = "";
    wrong.checked = false;
    filter();
  };

  const goTo = (section) => {
    if (!section) return;
    if (section.hidden) clear();
    section.scrollIntoView({ block: "start" });
    // What comes near the window now may be higher than was guessed.
    requestAnimationFrame(() => section.scrollIntoView({ block: "start" }));
  };

  text.addEventListener("input", filter);
  wrong.addEventListener("change", filter);
  byId("find").addEventListener("submit", (event) => event.preventDefault());
  jump.append(new Option("a query…", ""));
  for (const section of queries)
    jump.append(new Option(
      section.id.slice(1) + "  " + section.dataset.name, section.id));
  jump.addEventListener("change", () => {
    if (jump.value) location.hash = jump.value;
    jump.value = "";
  });
  byId("find").hidden = queries.length < 2;
  document.querySelector(".labelled").hidden =
    !queries.some((section) => section.dataset.first);

  // The two photos of a match, side by side or one over the other.
  const draw = (name, attributes, parent) => {
    const node = document.createElementNS(svgNamespace, name);
    for (const [key, value] of Object.entries(attributes))
      node.setAttribute(key, value);
    parent.append(node);
    return node;
  };

  const decode = (encoded) => {
    const bytes = Uint8Array.from(atob(encoded), (c) => c.charCodeAt(0));
    return new Uint16Array(bytes.buffer);
  };

  const aspect = (image) => {
    const width = image ? +image.getAttribute("width") : 4;
    return width / (image ? +image.getAttribute("height") : 3);
  };

  const drawPhoto = (svg, image, box) => {
    draw("rect", box, svg);
    if (image)
      draw("image", {
        ...box, href: source(image.dataset.t), preserveAspectRatio: "none",
      }, svg);
    else
      draw("text", {
        x: box.x + box.width / 2, y: box.y + box.height / 2,
        "font-size": box.height / 12,
      }, svg).textContent = "no photo";
  };

  const drawLines = (svg, lines, { one, two, width, height }) => {
    const dot = Math.max(width, height) / 300;
    const group = draw("g", {}, svg);
    for (let i = 0; i < lines.length; i += 4) {
      const at = (box, x, y) =>
        [box.x + box.width * x / 65535, box.y + box.height * y / 65535];
      const [x1, y1] = at(one, lines[i], lines[i + 1]);
      const [x2, y2] = at(two, lines[i + 2], lines[i + 3]);
      // The hue goes down the query's photo, so that a line can be followed.
      const stroke = "hsl(" + Math.round(lines[i + 1] / 65535 * 300) + " 90% 62%)";
      draw("line", { x1, y1, x2, y2, class: "under" }, group);
      draw("line", { x1, y1, x2, y2, stroke }, group);
      for (const [cx, cy] of [[x1, y1], [x2, y2]])
        draw("circle", { cx, cy, r: dot, fill: stroke, stroke: "#000" }, group)
          .setAttribute("stroke-width", dot / 3);
    }
  };

  // Photos of one height in a row, or of one width in a column: whichever
  // fills the window better.
  const arrange = (aspect1, aspect2) => {
    const gap = 12, size = 600;
    const column = { width: size };
    column.one = { x: 0, y: 0, width: size, height: size / aspect1 };
    column.two = {
      x: 0, y: column.one.height + gap, width: size, height: size / aspect2,
    };
    column.height = column.two.y + column.two.height;
    const row = { height: size };
    row.one = { x: 0, y: 0, width: size * aspect1, height: size };
    row.two = {
      x: row.one.width + gap, y: 0, width: size * aspect2, height: size,
    };
    row.width = row.two.x + row.two.width;
    const shown = ({ width, height }) => {
      const room = [innerWidth - 50, Math.max(innerHeight - 170, 150)];
      const scale = Math.min(room[0] / width, room[1] / height);
      return scale * scale * width * height;
    };
    return shown(row) >= shown(column) ? row : column;
  };

  const drawMatch = (image1, image2, encoded, asked) => {
    const places = arrange(aspect(image1), aspect(image2));
    const { one, two, width, height } = places;
    const svg = document.createElementNS(svgNamespace, "svg");
    svg.setAttribute("viewBox", "0 0 " + width + " " + height);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", "The query and the result");
    drawPhoto(svg, image1, one);
    drawPhoto(svg, image2, two);
    if (asked) {
      const framed = draw("svg", { ...one, class: "frame",
        viewBox: asked.getAttribute("viewBox") }, svg);
      framed.append(asked.firstChild.cloneNode());
    }
    if (encoded) drawLines(svg, decode(encoded), places);
    byId("drawing").replaceChildren(svg);
  };

  let current = null;
  const neighbour = (step) => {
    const items = [...current.parentElement.children];
    return items[items.indexOf(current) + step];
  };

  const open = (item) => {
    const section = item.closest("section");
    const button = item.querySelector("button");
    const encoded = button.dataset.l;
    const rank = item.querySelector("i").textContent;
    const mark = item.querySelector("b");
    current = item;
    byId("match-query").textContent = section.dataset.name;
    byId("match-rank").textContent = "and " + rank + ".";
    byId("match-result").textContent = button.title;
    const words = [...item.querySelectorAll(".score span")].map((part) => part.textContent);
    if (mark) words.unshift(mark.textContent);
    if (encoded === undefined) words.push("no lines to draw");
    else words.push(plural(decode(encoded).length / 4, "line", "lines") + " drawn");
    byId("match-words").textContent = words.join(" · ");
    byId("previous").disabled = !neighbour(-1);
    byId("next").disabled = !neighbour(1);
    drawMatch(section.querySelector("figure img"), button.querySelector("img"), encoded,
      section.querySelector("figure .box"));
    if (!dialog.open) dialog.showModal();
    history.replaceState(null, "", "#" + section.id + "r" + rank);
  };

  const step = (by) => {
    const item = neighbour(by);
    if (item) open(item);
  };

  document.querySelector("main").addEventListener("click", (event) => {
    const button = event.target.closest("li button");
    if (button) open(button.closest("li"));
  });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("close", () => {
    history.replaceState(null, "", "#" + current.closest("section").id);
    current.querySelector("button").focus();
  });

  // Links to a query (#q3) and to a match (#q3r5).
  const follow = () => {
    const found = /^#(q\d+)(?:r(\d+))?$/.exec(location.hash);
    if (!found) return;
    const section = byId(found[1]);
    goTo(section);
    const item = section && found[2] && section.querySelectorAll("li")[found[2] - 1];
    if (item) open(item);
  };

  // The head is as high as its title is long; what is gone to comes below it.
  const measure = () => document.documentElement.style.setProperty(
    "--head", byId("top").offsetHeight + "px");
  addEventListener("resize", () => {
    measure();
    if (dialog.open) open(current);
  });
  addEventListener("hashchange", follow);
  filter();
  measure();
  follow();
  // Milliseconds since the page was asked for; tests and benchmarks read it.
  document.documentElement.dataset.ready = Math.round(performance.now());
})();
