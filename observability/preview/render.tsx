// Draws one dashboard with Grafana's own components from its JSON and from query results (window.PREVIEW).
// Two things of Grafana's application are not in its libraries and are written here: the grid, and extractFields.
import * as React from 'react';
import { createRoot } from 'react-dom/client';
import { firstValueFrom } from 'rxjs';
import {
  applyFieldOverrides, cacheFieldDisplayNames, createTheme, DataFrame, dataLinksOverrideProcessor, displayNameOverrideProcessor,
  FieldColorModeId, FieldConfigOptionsRegistry, FieldConfigSource, fieldColorModeRegistry, FieldType,
  getDisplayProcessor, getFieldDisplayName, getFieldDisplayValues, identityOverrideProcessor,
  numberOverrideProcessor, standardFieldConfigEditorRegistry, standardTransformers, standardTransformersRegistry,
  stringOverrideProcessor, ThemeContext, thresholdsOverrideProcessor, toDataFrame, transformDataFrame,
  unitOverrideProcessor, valueMappingsOverrideProcessor, dateTime, VizOrientation, ReducerID,
} from '@grafana/data';
import { Dashboard, LegendDisplayMode, Panel } from '@grafana/schema';
import { BarGauge, BigValue, BigValueColorMode, BigValueGraphMode, BigValueTextMode, GlobalStyles, TimeSeries } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';

declare global { interface Window { PREVIEW: { dashboard: Dashboard; results: Record<string, any[]>; from: number; to: number }; DRAWN: boolean } }

const theme = createTheme({ colors: { mode: 'light' } });
const property = (id: string, path: string, process: any, settings: any = {}) =>
  ({ id, path, name: id, process, settings, editor: () => null, override: () => null, shouldApply: () => true });
const properties = [
  property('unit', 'unit', unitOverrideProcessor), property('min', 'min', numberOverrideProcessor),
  property('max', 'max', numberOverrideProcessor), property('decimals', 'decimals', numberOverrideProcessor),
  property('displayName', 'displayName', displayNameOverrideProcessor), property('noValue', 'noValue', stringOverrideProcessor),
  property('color', 'color', identityOverrideProcessor), property('thresholds', 'thresholds', thresholdsOverrideProcessor),
  property('mappings', 'mappings', valueMappingsOverrideProcessor), property('links', 'links', dataLinksOverrideProcessor),
];
standardFieldConfigEditorRegistry.setInit(() => properties as any);
standardTransformersRegistry.setInit(() => [...new Map(Object.values(standardTransformers).map((t: any) => [t.id, t])).values()].map((t: any) => ({ id: t.id, name: t.name, transformation: async () => t, editor: () => null })) as any);
const registry = new FieldConfigOptionsRegistry(() => [
  ...properties,
  ...['width', 'minWidth', 'cellOptions', 'drawStyle', 'fillOpacity', 'showPoints', 'stacking', 'axisSoftMax', 'thresholdsStyle'].map((name) =>
    ({ ...property(`custom.${name}`, name, identityOverrideProcessor), isCustom: true })),
] as any);

function framesOf(panel: Panel, results: any[]): DataFrame[] {
  return (panel.targets ?? []).flatMap((target: any, number) => {
    const found = results[number] ?? [];
    const refId = target.refId;
    if (target.datasource.uid === '${logs}') {
      return [toDataFrame({ refId, fields: [
        { name: 'Time', type: FieldType.time, values: found.map((line: any) => Date.parse(line._time)) },
        { name: 'Line', type: FieldType.string, values: found.map((line: any) => line._msg) },
        { name: 'labels', type: FieldType.other, values: found },
      ] })];
    }
    if (target.format === 'table') {
      if (!found.length) { return []; }
      const names = [...new Set(found.flatMap((one: any) => Object.keys(one.metric)))] as string[];
      const value = (panel.targets ?? []).length > 1 ? `Value #${refId}` : 'Value';
      return [toDataFrame({ refId, fields: [
        { name: 'Time', type: FieldType.time, values: found.map((one: any) => one.value[0] * 1000) },
        ...names.map((name) => ({ name, type: FieldType.string, values: found.map((one: any) => one.metric[name] ?? '') })),
        { name: value, type: FieldType.number, values: found.map((one: any) => Number(one.value[1])) },
      ] })];
    }
    return found.map((one: any) => {
      const points = one.values ?? [one.value];
      const legend = target.legendFormat === '__auto' ? Object.entries(one.metric).map(([k, v]) => `${k}="${v}"`).join(', ')
        : target.legendFormat.replace(/{{(\w+)}}/g, (_: string, name: string) => one.metric[name] ?? '');
      return toDataFrame({ refId, name: legend, fields: [
        { name: 'Time', type: FieldType.time, values: points.map((point: any) => point[0] * 1000) },
        { name: 'Value', type: FieldType.number, labels: one.metric, config: { displayNameFromDS: legend },
          values: points.map((point: any) => Number(point[1])) },
      ] });
    });
  });
}

function extractFields(frames: DataFrame[], source: string): DataFrame[] {
  return frames.map((frame) => {
    const from = frame.fields.find((field) => field.name === source);
    if (!from) { return frame; }
    const names = [...new Set(from.values.flatMap((row: any) => Object.keys(row)))] as string[];
    const added = names.map((name) => ({ name, type: FieldType.string, config: {}, values: from.values.map((row: any) => row[name]) }));
    return { ...frame, fields: [...frame.fields, ...added] };
  });
}

async function prepared(panel: any, results: any[]): Promise<DataFrame[]> {
  let frames = framesOf(panel, results);
  for (const step of panel.transformations ?? []) {
    frames = step.id === 'extractFields' ? extractFields(frames, step.options.source)
      : await firstValueFrom(transformDataFrame([step], frames));
  }
  const shown = applyFieldOverrides({
    data: frames, fieldConfig: panel.fieldConfig as FieldConfigSource, theme, timeZone: 'utc',
    fieldConfigRegistry: registry as any, replaceVariables: (text: string) => text,
  });
  cacheFieldDisplayNames(shown);
  return shown;
}

function Body({ panel, frames, width, height }: { panel: any; frames: DataFrame[]; width: number; height: number }) {
  const empty = !frames.length || frames.every((frame) => frame.length === 0);
  const { from, to } = window.PREVIEW;
  if (empty) { return <div style={{ display: 'grid', placeItems: 'center', height, color: theme.colors.text.secondary }}>{panel.fieldConfig.defaults.noValue}</div>; }
  if (panel.type === 'table') {
    return <TableNG data={frames[0]} width={width} height={height} structureRev={1} cellHeight={'sm' as any} fieldConfig={panel.fieldConfig} getActions={() => []} enableVirtualization={false} />;
  }
  if (panel.type === 'timeseries') {
    const fields = frames.map((frame) => ({ ...frame, fields: frame.fields.map((field) => ({ ...field, config: { ...field.config, unit: field.config.unit } })) }));
    return <TimeSeries frames={fields} width={width} height={height} timeZone="utc" timeRange={{ from: dateTime(from), to: dateTime(to), raw: { from: dateTime(from), to: dateTime(to) } }}
      legend={{ displayMode: LegendDisplayMode.List, placement: 'bottom', showLegend: true, calcs: [] }} />;
  }
  if (panel.type === 'logs') {
    return <div style={{ fontFamily: theme.typography.fontFamilyMonospace, fontSize: 12, height, overflow: 'hidden' }}>
      {Array.from({ length: Math.min(frames[0].length, 14) }, (_, row) =>
        <div key={row}>{new Date(frames[0].fields[0].values[row]).toISOString().replace('T', ' ').slice(0, 23)}  {frames[0].fields[1].values[row]}</div>)}
    </div>;
  }
  const values = getFieldDisplayValues({ data: frames, fieldConfig: panel.fieldConfig, reduceOptions: { calcs: [ReducerID.lastNotNull], values: false }, replaceVariables: (text) => text, theme, timeZone: 'utc' });
  if (panel.type === 'stat') {
    return <div style={{ display: 'flex', flexWrap: 'wrap' }}>{values.map((value, number) =>
      <BigValue key={number} value={{ ...value.display, title: values.length > 1 || panel.options.textMode ? value.display.title : undefined }} width={Math.max(width / values.length, 90)} height={height} colorMode={BigValueColorMode.Value} graphMode={BigValueGraphMode.None} textMode={panel.options.textMode ?? BigValueTextMode.Auto} theme={theme} />)}</div>;
  }
  const each = Math.min(height / values.length, 60);
  return <>{values.map((value, number) => <BarGauge key={number} value={value.display} field={value.field} display={value.view?.getFieldDisplayProcessor(value.colIndex!)} width={width} height={each} orientation={VizOrientation.Horizontal} theme={theme} itemSpacing={8} lcdCellWidth={12} displayMode={'basic' as any} namePlacement={'top' as any} />)}</>;
}

async function main() {
  const { dashboard, results } = window.PREVIEW;
  const column = 1440 / 24, row = 36, gap = 8;
  const panels = (dashboard.panels ?? []) as any[];
  const drawn = await Promise.all(panels.map(async (panel) => ({ panel, frames: panel.type === 'row' ? [] : await prepared(panel, results[panel.id]) })));
  const tall = Math.max(...panels.map((panel) => panel.gridPos.y + panel.gridPos.h)) * row;
  const Page = () => <ThemeContext.Provider value={theme}><GlobalStyles />
    <div style={{ position: 'relative', width: 1440, height: tall, background: theme.colors.background.canvas, color: theme.colors.text.primary, fontFamily: theme.typography.fontFamily }}>
      {drawn.map(({ panel, frames }) => {
        const { x, y, w, h } = panel.gridPos;
        const box: React.CSSProperties = { position: 'absolute', left: x * column, top: y * row, width: w * column - gap, height: h * row - gap, overflow: 'hidden' };
        if (panel.type === 'row') { return <h4 key={panel.id} style={{ ...box, margin: 0, paddingTop: 6 }}>{panel.title}</h4>; }
        return <div key={panel.id} style={{ ...box, background: theme.colors.background.primary, border: `1px solid ${theme.colors.border.weak}` }}>
          <div style={{ padding: '6px 8px', fontWeight: 500, height: 32 }}>{panel.title}</div>
          <div style={{ padding: '0 8px' }}><Body panel={panel} frames={frames} width={w * column - gap - 18} height={h * row - gap - 40} /></div>
        </div>;
      })}
    </div></ThemeContext.Provider>;
  createRoot(document.getElementById('root')!).render(<Page />);
  setTimeout(() => { window.DRAWN = true; document.title = 'drawn'; }, 4000);
}
void main();
