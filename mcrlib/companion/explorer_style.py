"""The look of the explorer's widgets in both themes of JupyterLab (ours)."""

# Colours come from JupyterLab's theme; the second value of each is for pages without one. Weights,
# margins and bullets are said anew, since the lasso's map resets those of the whole page.
STYLE = """<style>
.mcr-explorer { color: var(--jp-ui-font-color1, #111); }
.mcr-explorer h3 { margin: 12px 0 4px; font-size: 1.1em; font-weight: bold; }
.mcr-explorer p, .mcr-explorer li { line-height: 1.45; }
.mcr-explorer p { margin: 6px 0; }
.mcr-explorer .mcr-picture { display: inline; }
.mcr-explorer .widget-html-content { line-height: 1.45; }
.mcr-explorer button:focus-visible, .mcr-explorer select:focus-visible,
.mcr-explorer input:focus-visible, .mcr-explorer textarea:focus-visible,
.mcr-explorer img:focus-visible { outline: 3px solid var(--jp-brand-color1, #1976d2); }
.mcr-explorer .mcr-whole, .mcr-explorer .mcr-search { align-self: flex-start; }
.mcr-explorer select:not([size]) { padding-right: 24px; }
[data-jp-theme-light="false"] .mcr-explorer { --jp-widgets-dropdown-arrow: url("data:image/svg+xml,\
%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18'%3E%3Cpath fill='white' \
d='M5.2 5.9L9 9.7l3.8-3.8 1.2 1.2-5 5-5-5z'/%3E%3C/svg%3E"); }
.mcr-row { display: flex; flex-flow: row wrap; gap: 6px 14px; align-items: flex-end; }
.mcr-status { font-weight: bold; min-height: 1.5em; margin: 4px 0; }
.mcr-answers { display: flex; flex-flow: row wrap; gap: 16px; align-items: flex-start; }
.mcr-hits { flex: 1 1 420px; min-width: 300px; }
.mcr-cards { display: grid; gap: 8px;
  grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); }
.mcr-hit { border: 1px solid var(--jp-border-color1, #888); padding: 6px; margin: 0; }
.mcr-hit .mcr-hit-look { margin-top: auto; }
.mcr-hit-true { border: 3px solid #2e9e44; }
.mcr-hit .mcr-picture, .mcr-asked .mcr-picture { max-width: 100%; }
.mcr-explorer .mcr-notes { margin: 4px 0; padding-left: 20px; list-style: disc; }
.mcr-look-columns { display: flex; flex-flow: row wrap; gap: 16px; align-items: flex-start; }
.mcr-look-picture { position: relative; width: 448px; height: 448px; flex: 0 0 auto; }
.mcr-look-picture > * { position: absolute; inset: 0; margin: 0; }
.mcr-heat { width: 448px; height: 448px; max-width: none; display: block; }
.mcr-patches { display: grid; gap: 0; }
.mcr-patches .mcr-patch { background: transparent; width: 100%; height: 100%; min-width: 0;
  margin: 0; padding: 0; font-size: 0; border: 0; box-shadow: none; }
.mcr-patches .mcr-patch:hover { outline: 1px solid #ffbf00; outline-offset: -1px; }
.mcr-patches .mcr-patch:focus { outline: 3px solid #ffbf00; outline-offset: -3px; }
.mcr-words { display: flex; flex-flow: row wrap; gap: 3px; flex: 1 1 320px; max-width: 640px; }
.mcr-words .mcr-word { width: auto; min-width: 0; height: auto; margin: 0; padding: 1px 5px;
  line-height: 1.5; color: var(--jp-ui-font-color1, #111); }
.mcr-scale { display: inline-block; width: 200px; height: 12px; vertical-align: middle;
  background: linear-gradient(to right, rgb(0 90 220 / 65%), rgb(0 90 220 / 0%) 50%,
  rgb(230 97 0 / 0%) 50%, rgb(230 97 0 / 65%)); border: 1px solid var(--jp-border-color1, #888); }
.mcr-map-columns { display: flex; flex-flow: row wrap; gap: 16px; align-items: flex-start; }
.mcr-map { position: relative; width: 620px; height: 460px; max-width: 100%; margin: 8px;
  border: 1px solid var(--jp-border-color1, #888); }
.mcr-lines { position: absolute; inset: 0; width: 100%; height: 100%; }
.mcr-lines line { stroke: var(--jp-ui-font-color2, #777); stroke-width: 0.0006; opacity: 0.5; }
.mcr-point { position: absolute; width: 8px; height: 8px; margin: -4px 0 0 -4px;
  background: #8aa; border: 1px solid #333; }
.mcr-point-image { border-radius: 50%; }
.mcr-point-has { background: #e66100; }
.mcr-tip { display: none; position: absolute; left: 10px; top: 10px; width: 230px; padding: 6px;
  background: white; color: black; border: 1px solid #333; pointer-events: none; }
.mcr-tip img { display: block; }
.mcr-tip-left { left: auto; right: 10px; }
.mcr-tip-up { top: auto; bottom: 10px; }
.mcr-point:hover { z-index: 9; }
.mcr-point:hover .mcr-tip { display: block; }
.mcr-table { border-collapse: collapse; max-width: 760px; }
.mcr-table caption { text-align: left; font-weight: bold; }
.mcr-table th, .mcr-table td { text-align: left; vertical-align: top; padding: 2px 6px;
  border-bottom: 1px solid var(--jp-border-color2, #bbb); }
.mcr-table td:first-child { white-space: nowrap; }
.mcr-chosen { flex: 1 1 420px; }
.mcr-scroll { max-height: 460px; overflow: auto; }
.mcr-scroll:focus-visible { outline: 3px solid var(--jp-brand-color1, #1976d2); }
</style>"""
