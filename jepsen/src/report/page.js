"use strict";
// Draws the operations. Times are microseconds since the run began.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [LANE, KIND, KEY, NODE, OUTCOME, FROM, LONG, PROCESS, INPUT, OUTPUT, ERROR, MARKED] = [...Array(12).keys()];
  const rows = data.rows;
  const byId = (id) => document.getElementById(id);
  const lanes = byId("lanes"), overview = byId("overview"), tip = byId("tip");
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const LEFT = 70, FAULT = 15, LEADER = 18, AXIS = 22, SHORTEST = 200;
  let from = 0, to = data.end;

  // Faults that overlap stand below each other.
  const faultRows = [];
  for (const fault of data.faults) {
    fault.end = fault.to ?? data.end;
    fault.row = faultRows.findIndex((end) => end <= fault.from);
    if (fault.row < 0) fault.row = faultRows.push(0) - 1;
    faultRows[fault.row] = fault.end;
  }
  const head = AXIS + faultRows.length * FAULT + (data.leaders.length ? LEADER : 0) + 6;
  const laneHeight = data.lanes > 60 ? 9 : data.lanes > 24 ? 13 : 18;
  const palette = ["#2f6fde", "#8e44ad", "#0f9d8a", "#c2571a", "#7a6a00", "#b5379a", "#4b5563"];
  const nodeColour = (node) => palette[Math.max(0, data.nodes.indexOf(node)) % palette.length];

  const option = (list, text) => { const one = document.createElement("option"); one.value = text; one.textContent = text; list.append(one); };
  [...data.keys].sort((a, b) => a.localeCompare(b, undefined, { numeric: true })).forEach((key) => key && option(byId("keys"), key));
  [...data.kinds].sort().forEach((kind) => option(byId("kind"), kind));

  const seconds = (time) => (time / 1e6).toFixed(to - from < 2e5 ? 4 : to - from < 2e7 ? 3 : 1) + " s";
  const width = () => lanes.clientWidth - LEFT;
  const x = (time) => LEFT + (time - from) / (to - from) * width();
  const timeAt = (pixel) => from + (pixel - LEFT) / width() * (to - from);

  // Grouped by lane, so that pointing at one looks at few.
  const ofLane = Array.from({ length: data.lanes }, () => []);
  rows.forEach((row) => ofLane[row[LANE]].push(row));
  const endOf = (row) => row[LONG] < 0 ? data.end : row[FROM] + row[LONG];

  let wanted = () => true;
  const filter = () => {
    const key = byId("key").value.trim(), kind = byId("kind").value;
    const keyNumber = data.keys.indexOf(key), kindNumber = data.kinds.indexOf(kind);
    const shown = [0, 1, 2].map((outcome) => byId("show-" + outcome).checked);
    wanted = (row) => shown[row[OUTCOME]] && (!key || row[KEY] === keyNumber) && (!kind || row[KIND] === kindNumber);
  };

  const prepare = (canvas, height) => {
    const ratio = window.devicePixelRatio || 1;
    canvas.style.height = height + "px";
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    return pen;
  };

  const drawHead = (pen, height) => {
    const span = to - from, steps = [1, 2, 5];
    let step = 100;
    for (let power = 2; step < span / 9; power++) for (const one of steps) if (step < span / 9) step = one * 10 ** power;
    pen.fillStyle = css("--soft"); pen.strokeStyle = css("--line");
    for (let time = Math.ceil(from / step) * step; time <= to; time += step) {
      pen.beginPath(); pen.moveTo(x(time), AXIS); pen.lineTo(x(time), height); pen.stroke();
      pen.textAlign = "center";
      if (x(time) > LEFT + 24 && x(time) < LEFT + width() - 24) pen.fillText(seconds(time), x(time), 11);
    }
    pen.textAlign = "left";
    for (const fault of data.faults) {
      if (fault.end < from || fault.from > to) continue;
      const left = Math.max(LEFT, x(fault.from)), right = Math.min(LEFT + width(), Math.max(x(fault.end), left + 2));
      const top = AXIS + fault.row * FAULT;
      pen.globalAlpha = 0.12; pen.fillStyle = "#f59e0b"; pen.fillRect(left, top, right - left, height - top);
      pen.globalAlpha = fault.effective ? 0.9 : 0.4; pen.fillRect(left, top + 1, right - left, FAULT - 2);
      pen.globalAlpha = 1;
      label(pen, fault.targets ? fault.name + " " + fault.targets : fault.name, left, right, top + FAULT / 2, "#3b2600");
    }
    const top = AXIS + faultRows.length * FAULT;
    for (const [begin, end, node, term] of data.leaders) {
      if (end < from || begin > to) continue;
      const left = Math.max(LEFT, x(begin)), right = Math.min(LEFT + width(), Math.max(x(end), left + 2));
      pen.fillStyle = nodeColour(node); pen.fillRect(left, top + 1, right - left, LEADER - 4);
      label(pen, node + " leads, term " + term, left, right, top + LEADER / 2 - 1, "#fff");
    }
    pen.fillStyle = css("--card"); pen.fillRect(0, 0, LEFT, height);
    pen.fillStyle = css("--soft"); pen.textAlign = "right";
    if (faultRows.length) pen.fillText("faults", LEFT - 8, AXIS + FAULT / 2);
    if (data.leaders.length) pen.fillText("leader", LEFT - 8, top + LEADER / 2);
  };
  const label = (pen, text, left, right, middle, colour) => {
    if (right - left < 26) return;
    pen.save(); pen.beginPath(); pen.rect(left, middle - 9, right - left - 2, 18); pen.clip();
    pen.textAlign = "left"; pen.fillStyle = colour; pen.fillText(text, left + 4, middle); pen.restore();
  };

  const drawLanes = () => {
    const height = head + data.lanes * laneHeight + 6;
    const pen = prepare(lanes, height);
    pen.fillStyle = css("--card"); pen.fillRect(0, 0, lanes.clientWidth, height);
    drawHead(pen, height);
    const colours = [css("--bar-ok"), css("--bar-fail"), css("--bar-info")];
    pen.save(); pen.beginPath(); pen.rect(LEFT, head - 2, width(), height); pen.clip();
    for (const row of rows) {
      if (row[FROM] > to || endOf(row) < from || !wanted(row)) continue;
      const left = x(row[FROM]), long = Math.max(0.7, x(endOf(row)) - left), top = head + row[LANE] * laneHeight;
      pen.fillStyle = colours[row[OUTCOME]];
      pen.fillRect(left, top + 1, long, laneHeight - 3);
      if (long > 70 && laneHeight > 12) {
        const said = row[OUTPUT] || data.errors[row[ERROR]] || "";
        label(pen, `${data.kinds[row[KIND]]} ${data.keys[row[KEY]]} ${row[INPUT]} ${said && "→ " + said}`, Math.max(left, LEFT), left + long, top + laneHeight / 2, "#fff");
      }
    }
    pen.globalAlpha = 1; pen.strokeStyle = css("--ink"); pen.lineWidth = 2;
    for (const row of rows) {
      if (!row[MARKED] || row[FROM] > to || endOf(row) < from || !wanted(row)) continue;
      const left = x(row[FROM]);
      pen.strokeRect(left - 1, head + row[LANE] * laneHeight, Math.max(3, x(endOf(row)) - left) + 2, laneHeight - 1);
    }
    pen.restore();
    pen.fillStyle = css("--soft"); pen.textAlign = "right";
    if (laneHeight > 12) for (let lane = 0; lane < data.lanes; lane++) pen.fillText("client " + lane, LEFT - 8, head + (lane + 0.5) * laneHeight);
    byId("range").textContent = seconds(from) + " to " + seconds(to);
  };

  const drawOverview = () => {
    const height = 44, pen = prepare(overview, height), all = overview.clientWidth, at = (time) => time / data.end * all;
    pen.fillStyle = css("--card"); pen.fillRect(0, 0, all, height);
    pen.fillStyle = "#f59e0b"; pen.globalAlpha = 0.22;
    data.faults.forEach((fault) => pen.fillRect(at(fault.from), 0, Math.max(1, at(fault.end) - at(fault.from)), height));
    pen.globalAlpha = 1;
    const bars = Array.from({ length: Math.ceil(all / 3) + 1 }, () => [0, 0, 0]);
    rows.forEach((row) => { if (wanted(row)) bars[Math.floor(at(endOf(row)) / 3)][row[OUTCOME]]++; });
    const highest = Math.max(1, ...bars.map((bar) => bar[0] + bar[1] + bar[2]));
    const colours = [css("--bar-ok"), css("--bar-fail"), css("--bar-info")];
    bars.forEach((bar, number) => {
      let bottom = height;
      bar.forEach((count, outcome) => {
        const tall = count / highest * (height - 4);
        pen.fillStyle = colours[outcome]; pen.fillRect(number * 3, bottom - tall, 2, tall); bottom -= tall;
      });
    });
    pen.fillStyle = css("--ink");
    rows.forEach((row) => { if (row[MARKED]) pen.fillRect(at(row[FROM]), 0, 2, 6); });
    pen.strokeStyle = css("--link"); pen.lineWidth = 2;
    pen.strokeRect(at(from) + 1, 1, Math.max(4, at(to) - at(from) - 2), height - 2);
  };

  let asked = false;
  const draw = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; drawLanes(); drawOverview(); });
  };
  const look = (begin, end) => {
    const span = Math.min(data.end, Math.max(SHORTEST, end - begin));
    from = Math.min(Math.max(0, begin), data.end - span);
    to = from + span;
    draw();
  };
  const zoom = (factor, around) => look(around - (around - from) * factor, around + (to - around) * factor);
  const middle = () => (from + to) / 2;

  byId("in").onclick = () => zoom(0.5, middle());
  byId("out").onclick = () => zoom(2, middle());
  byId("all").onclick = () => { byId("key").value = ""; filter(); look(0, data.end); };
  for (const id of ["key", "kind", "show-0", "show-1", "show-2"]) byId(id).addEventListener("input", () => { filter(); draw(); });
  lanes.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey || !event.shiftKey && event.deltaY) { event.preventDefault(); zoom(event.deltaY > 0 ? 1.3 : 1 / 1.3, timeAt(event.offsetX)); }
  }, { passive: false });

  let grabbed = null;
  lanes.addEventListener("pointerdown", (event) => { grabbed = { at: event.offsetX, from, to }; lanes.setPointerCapture(event.pointerId); });
  lanes.addEventListener("pointerup", () => { grabbed = null; });
  lanes.addEventListener("pointerleave", () => { tip.hidden = true; });
  lanes.addEventListener("pointermove", (event) => {
    if (grabbed) {
      const moved = (event.offsetX - grabbed.at) / width() * (grabbed.to - grabbed.from);
      look(grabbed.from - moved, grabbed.to - moved);
      return;
    }
    hover(event);
  });

  const hover = (event) => {
    const lane = Math.floor((event.offsetY - head) / laneHeight), time = timeAt(event.offsetX), near = (to - from) / width() * 3;
    let best = null;
    if (ofLane[lane]) for (const row of ofLane[lane]) {
      if (!wanted(row)) continue;
      const away = Math.max(row[FROM] - time, time - endOf(row), 0);
      if (away <= near && (!best || away < best.away)) best = { away, row };
    }
    const fault = data.faults.find((one) => event.offsetY >= AXIS + one.row * FAULT && event.offsetY < AXIS + (one.row + 1) * FAULT && one.from <= time + near && one.end >= time - near);
    if (!best && !fault) { tip.hidden = true; return; }
    tip.replaceChildren();
    const line = (text, name = "div") => { const one = document.createElement(name); one.textContent = text; tip.append(one); };
    if (best) {
      const row = best.row;
      line(`${data.kinds[row[KIND]]} ${data.keys[row[KEY]]}: ${["succeeded", "failed", "unknown"][row[OUTCOME]]}`, "b");
      if (row[INPUT]) line("asked: " + row[INPUT]);
      if (row[OUTPUT]) line("answer: " + row[OUTPUT]);
      if (data.errors[row[ERROR]]) line("error: " + data.errors[row[ERROR]]);
      line(`process ${row[PROCESS]}${data.nodes[row[NODE]] ? ", node " + data.nodes[row[NODE]] : ""}`);
      line(`${(row[FROM] / 1e6).toFixed(4)} s, ` + (row[LONG] < 0 ? "never answered" : `${(row[LONG] / 1e3).toFixed(2)} ms`));
    } else {
      line(`${fault.name} ${fault.targets}`, "b");
      line(`${(fault.from / 1e6).toFixed(2)} s to ${fault.to === null ? "the end" : (fault.to / 1e6).toFixed(2) + " s"}`);
      line("effect: " + fault.effect);
    }
    tip.hidden = false;
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
  };

  let chosen = null;
  const overviewTime = (event) => event.offsetX / overview.clientWidth * data.end;
  overview.addEventListener("pointerdown", (event) => { chosen = overviewTime(event); overview.setPointerCapture(event.pointerId); });
  overview.addEventListener("pointermove", (event) => { if (chosen !== null) look(Math.min(chosen, overviewTime(event)), Math.max(chosen, overviewTime(event))); });
  overview.addEventListener("pointerup", (event) => {
    const here = overviewTime(event);
    if (Math.abs(here - chosen) < data.end / 400) look(here - (to - from) / 2, here + (to - from) / 2);
    chosen = null;
  });

  const show = (link) => {
    const begin = Number(link.dataset.from), end = Number(link.dataset.to), margin = Math.max(5000, (end - begin) * 0.4);
    byId("key").value = data.keys.includes(link.dataset.key) ? link.dataset.key : "";
    filter();
    look(begin - margin, end + margin);
  };
  document.querySelectorAll("a.show").forEach((link) => link.addEventListener("click", () => show(link)));
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  filter();
  // The first finding's window is what one came for.
  const first = document.querySelector("a.show");
  if (first) show(first); else look(0, data.end);
})();
