// Charts of rows, as SVG that follows the page's colours. Every chart has a caption and a description in words.
'use strict';

const charts = (() => {
  const MAXIMUM = 6; // rows that colours and symbols tell apart
  const COLOURS = Array.from({length: MAXIMUM}, (_, i) => `var(--row-${i})`);
  const SYMBOLS = ['circle', 'square', 'triangle', 'diamond', 'star', 'cross'];
  const STYLE = {background: 'transparent', color: 'inherit', fontFamily: 'inherit', fontSize: '12px', overflow: 'visible'};

  /** A symbol as it marks the i-th row in the charts. */
  function symbol(i) {
    const svg = d3.create('svg').attr('class', 'symbol').attr('viewBox', '-7 -7 14 14').attr('aria-hidden', 'true');
    const type = d3[`symbol${SYMBOLS[i][0].toUpperCase()}${SYMBOLS[i].slice(1)}`];
    svg.append('path').attr('d', d3.symbol(type, 70)()).style('fill', COLOURS[i]);
    return svg.node();
  }

  function figure(caption, description, options) {
    const svg = Plot.plot({style: STYLE, ...options});
    svg.setAttribute('role', 'img');
    svg.setAttribute('aria-label', `${caption}. ${description}`);
    const element = document.createElement('figure');
    const text = document.createElement('figcaption');
    text.textContent = caption;
    element.append(svg, text);
    return element;
  }

  const scales = rows => ({
    color: {domain: d3.range(rows.length), range: COLOURS},
    symbol: {domain: d3.range(rows.length), range: SYMBOLS},
  });

  const interval = ([mean, std]) => (std === null ? `${mean}` : `${mean} ± ${std}`);

  /** Means with standard deviations and the single runs: a band for each column, a line for each row. */
  function dots(rows, columns, {caption, width}) {
    const band = Math.max(26, rows.length * 15 + 8);
    const cells = columns.flatMap(column =>
      rows.map((row, i) => ({i, column: column.title, row, value: row.measures[column.index]})).filter(c => c.value));
    const means = cells.map(({i, column, value: [mean, std]}) => ({i, column, mean, low: mean - (std ?? 0), high: mean + (std ?? 0)}));
    const runs = cells.flatMap(({i, column, value: [, , values]}) => values.map(value => ({i, column, value})));
    const words = cells.map(c => `${c.row.label}: ${c.column} ${interval(c.value)}`).join('; ');
    return figure(caption, words, {
      width, height: columns.length * band + 34, marginLeft: 96, marginRight: 16, marginTop: 26, marginBottom: 8,
      ...scales(rows),
      x: {label: null, grid: true, nice: true, axis: 'top', inset: 8},
      y: {domain: d3.range(rows.length), axis: null, padding: 0.3},
      fy: {domain: columns.map(c => c.title), label: null, padding: 0.12},
      marks: [
        Plot.axisFy({anchor: 'left', label: null, fontSize: 12}),
        Plot.frame({stroke: 'var(--line)'}),
        Plot.dot(runs, {fy: 'column', y: 'i', x: 'value', r: 2, fill: 'i', fillOpacity: 0.4}),
        Plot.ruleY(means, {fy: 'column', y: 'i', x1: 'low', x2: 'high', stroke: 'i', strokeWidth: 2}),
        Plot.dot(means, {fy: 'column', y: 'i', x: 'mean', fill: 'i', symbol: 'i', r: 4.5, stroke: 'var(--surface)', strokeWidth: 0.8}),
      ],
    });
  }

  /** The values of each run of one row, and their means. */
  function runs(row, columns, {caption, width}) {
    const found = columns.filter(column => row.measures[column.index]);
    const values = found.flatMap(c => row.measures[c.index][2].map((value, i) => ({column: c.title, value, title: `${row.runs[i]}: ${value}`})));
    const means = found.map(c => ({column: c.title, mean: row.measures[c.index][0]}));
    const words = found.map(c => `${c.title}: ${row.measures[c.index][2].map((v, i) => `${row.runs[i]} ${v}`).join(', ')}`).join('; ');
    return figure(caption, words, {
      width, height: Math.min(width, 340), marginLeft: 34, marginBottom: 44, marginTop: 12,
      x: {domain: found.map(c => c.title), label: null, tickRotate: -35, padding: 0.2},
      y: {grid: true, nice: true, zero: true, label: null},
      marks: [
        Plot.tickY(means, {x: 'column', y: 'mean', stroke: 'var(--muted)', strokeWidth: 2}),
        Plot.dot(values, {x: 'column', y: 'value', fill: 'var(--row-0)', fillOpacity: 0.75, r: 3.5, title: 'title'}),
      ],
    });
  }

  /** Curves of equal H over accuracy on unseen (x) and seen (y) classes. */
  function equalH(limit) {
    return d3.range(10, limit, limit > 50 ? 20 : 10).flatMap(h => {
      const left = (h * limit) / (2 * limit - h);
      return d3.range(101).map(i => left + ((limit - left) * i) / 100).map(u => ({h, u, s: (h * u) / (2 * u - h)}));
    });
  }

  /** Where rows lie between unseen and seen classes, among all rows of the board; an arrow leads to the calibrated measures. */
  function position(rows, board, at, {caption, width}) {
    const point = (row, u, s) => row.measures[at[u]] && {u: row.measures[at[u]][0], s: row.measures[at[s]][0]};
    const every = board.rows.flatMap(row => ['', '_calibrated'].map(kind => point(row, `U${kind}`, `S${kind}`))).filter(Boolean);
    const marked = rows.map((row, i) => ({i, row, from: point(row, 'U', 'S'), to: point(row, 'U_calibrated', 'S_calibrated')})).filter(m => m.from);
    const limit = Math.min(100, Math.ceil((d3.max(every, p => Math.max(p.u, p.s)) + 3) / 10) * 10);
    const words = marked.map(m => `${m.row.label}: U ${m.from.u}, S ${m.from.s}; calibrated U ${m.to.u}, S ${m.to.s}`).join('. ');
    const curves = equalH(limit);
    return figure(caption, words, {
      width, height: Math.min(width, 340), marginLeft: 34, marginBottom: 36, marginTop: 24, marginRight: 16,
      ...scales(rows),
      x: {domain: [0, limit], label: 'U, unseen', labelAnchor: 'center', labelArrow: 'none', ticks: 5},
      y: {domain: [0, limit], label: 'S, seen', labelArrow: 'none', labelOffset: 30, ticks: 5},
      marks: [
        Plot.frame({stroke: 'var(--line)'}),
        Plot.line(curves, {x: 'u', y: 's', z: 'h', stroke: 'var(--line)'}),
        Plot.text(curves, Plot.selectLast({x: 'u', y: 's', z: 'h', text: d => `H ${d.h}`, fill: 'var(--muted)', fontSize: 10, dx: -2, dy: -7, textAnchor: 'end'})),
        Plot.dot(every, {x: 'u', y: 's', r: 1.8, fill: 'var(--muted)', fillOpacity: 0.45}),
        Plot.arrow(marked, {x1: d => d.from.u, y1: d => d.from.s, x2: d => d.to.u, y2: d => d.to.s, stroke: 'i', strokeOpacity: 0.7, insetStart: 5, insetEnd: 6, headLength: 6}),
        Plot.dot(marked, {x: d => d.from.u, y: d => d.from.s, fill: 'i', symbol: 'i', r: 5, stroke: 'var(--surface)', strokeWidth: 0.8}),
        Plot.dot(marked, {x: d => d.to.u, y: d => d.to.s, stroke: 'i', symbol: 'i', r: 5, strokeWidth: 2, fill: 'var(--surface)'}),
      ],
    });
  }

  /** Mean ranks, and which of them Nemenyi's test does not tell apart: a critical-difference diagram on its side. */
  function ranks(ranking, {caption, width}) {
    const names = ranking.ranks.map(([name]) => name), k = names.length;
    const points = ranking.ranks.map(([name, rank]) => ({name, rank}));
    const end = Math.max(k, 1 + ranking.critical), step = Math.max(0.3, end * 0.035);
    const bars = ranking.groups.map((group, i) => ({x: end + step * (i + 1), from: group[0], to: group[group.length - 1]}));
    const words = `${points.map(p => `${p.name} ${p.rank}`).join(', ')}. Critical difference ${ranking.critical}. ` +
      `Not told apart: ${ranking.groups.map(group => group.join(', ')).join('; ') || 'none'}`;
    return figure(caption, words, {
      width, height: (k + 1) * 21 + 46, marginLeft: Math.min(width / 2.4, d3.max(names, name => name.length) * 6.8 + 12), marginRight: 12, marginTop: 28, marginBottom: 12,
      x: {domain: [1, end + step * (bars.length + 1)], label: null, axis: null},
      y: {type: 'point', domain: ['', ...names], label: null, tickSize: 0, padding: 0.5},
      marks: [
        Plot.axisX(d3.range(1, k + 1, Math.ceil(k / 12)), {anchor: 'top', label: null, tickSize: 0}),
        Plot.gridX(d3.range(1, k + 1, Math.ceil(k / 12)), {stroke: 'var(--line)', strokeOpacity: 1}),
        Plot.ruleY([{y: '', x1: 1, x2: 1 + ranking.critical}], {y: 'y', x1: 'x1', x2: 'x2', stroke: 'var(--text)', strokeWidth: 2, marker: 'tick'}),
        Plot.text([{y: '', x: 1 + ranking.critical / 2}], {y: 'y', x: 'x', text: () => `critical difference ${ranking.critical.toFixed(1)}`, dy: -8, fill: 'var(--text)', stroke: 'var(--surface)', strokeWidth: 4}),
        Plot.ruleX(bars, {x: 'x', y1: 'from', y2: 'to', stroke: 'var(--row-1)', strokeWidth: 5, strokeLinecap: 'round'}),
        Plot.ruleY(points, {y: 'name', x1: 1, x2: 'rank', stroke: 'var(--row-0)', strokeOpacity: 0.4, strokeWidth: 2}),
        Plot.dot(points, {y: 'name', x: 'rank', fill: 'var(--row-0)', r: 5, title: p => `${p.name}: ${p.rank}`}),
      ],
    });
  }

  /** T1 of each unseen class. */
  function classes(rows, board, {caption, width}) {
    const values = board.classes.flatMap((name, k) => rows.map((row, i) => ({name, i, row, value: row.classes[k]})).filter(v => v.value !== null));
    const order = d3.groupSort(values, group => -d3.mean(group, v => v.value), v => v.name);
    const words = d3.groups(values, v => v.name).map(([name, group]) => `${name}: ${group.map(v => `${v.row.label} ${v.value}`).join(', ')}`).join('; ');
    const longest = d3.max(order, name => name.length);
    return figure(caption, words, {
      width, height: order.length * 19 + 34, marginLeft: Math.min(width / 3, longest * 6.6 + 14), marginRight: 16, marginTop: 26, marginBottom: 8,
      ...scales(rows),
      x: {domain: [0, 100], label: null, grid: true, axis: 'top'},
      y: {domain: order, label: null, tickSize: 0},
      marks: [
        Plot.ruleY(values, Plot.groupY({x1: 'min', x2: 'max'}, {y: 'name', x1: 'value', x2: 'value', stroke: 'var(--line)', strokeWidth: 3})),
        Plot.dot(values, {y: 'name', x: 'value', fill: 'i', symbol: 'i', r: 4.5, stroke: 'var(--surface)', strokeWidth: 0.8}),
      ],
    });
  }

  return {MAXIMUM, symbol, dots, runs, position, ranks, classes};
})();
