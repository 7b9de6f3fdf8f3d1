// The shapes that the types of the page speak of, known in every file. Only the checker reads this; it is not served.

// insights/board.js
type Layout = {width?: number, height?: number, view?: string};
type Saved = {name: string, description?: string, kind: any, question: any, layout?: Layout};
/** what a refresh of the whole dashboard told of a tile */
type Told = {answer: any, error: any, at: number};
type EditingProps = {title: string, of: {name: string, description?: string}, onSave: (next: {name: string, description: string}) => void, onClose: () => void};

// insights/filters.js
type Split = {group_type?: string, group_type_index?: number, property: any, type?: any, limit?: number, hide_other?: boolean, histogram_bins?: number, attribution?: string, attribution_step?: number};
type AttributionProps = {value: Split | undefined, steps: number, change: (change: any) => void};
type CohortsProps = {value: Split | undefined, types: Choices, onChange: (split: Split | undefined) => void};

type Filter = {group_type?: string | undefined, group_type_index?: number | undefined, type?: string, key?: string, operator?: string, value?: any, values?: Filter[]};
type ValueProps = {filter: Filter, event?: string | null, onChange: (filter: Filter) => void};
type ConditionProps = {filter: Filter, event?: string | null, onChange: (filter: Filter) => void, onRemove: () => void};
type MembersProps = {filters: Filter[], joined: string, event?: string | null, depth: number, onChange: (filters: Filter[]) => void};
type GroupProps = {group: Filter, event?: string | null, depth: number, onChange: (group: Filter) => void, onRemove: () => void};
type FiltersProps = {value: any, event?: string | null, onChange: (filters: Filter[] | undefined) => void};
type CohortValueProps = {filter: Filter, onChange: (filter: Filter) => void};

// insights/forms.js
type FormProps = {question: Question, onChange: (changes: Question) => void};
type MathChoiceProps = {value: string | undefined, onChange: (math: string) => void, label: string};
type SeriesRowProps = {one: any, index: number, count: number, math: boolean, onChange: (series: any) => void, onRemove: () => void, onMove: (by: number) => void};
type MathPropertyProps = {one: any, name: string, onChange: (series: any) => void};

// insights/grid.js
/** the question for the people behind a number */
type People = {path: string, body: any, title: string};
type Cell = {value: any, as?: "text" | "number" | "percent" | "seconds", people?: People | null, title?: string};
type Head = {title: string, hover?: string, right?: boolean};
type Grid = {heads: Head[], rows: Cell[][]};

// insights/pictures.js
/** `question`: as it was sent */
type PictureProps = {question: any, answer: any, onPeople?: OnPeople, height?: number};

// insights/question.js
/** a question's JSON, as the API takes it */
type Question = Record<string, any>;

// insights/sankey.js
type SankeyLink = {source: string, target: string, value: number};
type SankeyNode = {id: string, x: number, y: number, height: number, weight: number, out: number, into: number};
type Band = SankeyLink & {path: string, width: number};
type SankeyProps = {question: any, links: SankeyLink[], onPeople?: OnPeople, height?: number};

// insights/suggestions.js
type Suggestion = {value: string, label?: string, note?: number};
type Names = {events: {name: string, volume: number}[], properties: {name: string, volume: number}[], groups: {name: string, index: number | null, groups: number, properties: string[]}[]};

type OnPeople = (people: People) => void;
type GridTableProps = {grid: Grid, label: string, onPeople?: OnPeople | undefined, height?: number};
type BarsProps = {items: {name: string, cell: Cell, value: number}[], shares?: boolean, onPeople?: OnPeople | undefined};

// insights/words.js
type Choices = [value: string, label: string][];
type Kind = "trends" | "funnel" | "retention" | "lifecycle" | "stickiness" | "paths";

// lib/api.js
type Asked = {
  method?: "GET"|"POST"|"PUT"|"PATCH"|"DELETE";
  /** parts of the query string; null, undefined and "" are left out, lists repeat */
  query?: Record<string, any>;
  /** sent as JSON */
  body?: any;
  signal?: AbortSignal;
  /** sent without a credential */
  anonymous?: boolean;
  /** a 401 may be about what is sent, such as a password: it does not end the session */
  guess?: boolean;
  /** sent without project and environment */
  unscoped?: boolean;
  /** what is answered; JSON unless said otherwise */
  as?: "json"|"text"|"response";
  /** in this project instead of the chosen one */
  project?: string;
  /** this is the second try */
  again?: boolean;
};

// lib/chart.js
type Series = {
  label: string;
  values: (number | null)[];
  /** for what is not complete, or the period before */
  dashed?: boolean;
  /** a CSS colour; by its place in the palette when absent */
  color?: string;
};
type ChartProps = {x: (number | string)[], series: Series[], kind?: "line" | "area" | "bar" | "stacked", height?: number, label: string, onPoint?: (series: number, index: number) => void, axis?: (value: any) => string, partial?: number};

// lib/keyboard.js
type Shortcut = {keys: string, what: string, run: (event: KeyboardEvent) => void};

// lib/load.js
type Load<T> = {
  /** the last answer; it stays while the next one is on its way */
  data: T | undefined;
  error: any;
  loading: boolean;
  reload: () => void;
  /** gives up waiting for the answer that is on its way */
  cancel?: () => void;
  /** when the answer came */
  at: number;
};
type LoadedProps = {of: Load<any>, children: (data: any) => any, what?: string};

// lib/router.js
type Place = {
  /** the first part of the path: the name of the file in screens/ */
  screen: string;
  /** the parts behind it, decoded */
  parts: string[];
  query: URLSearchParams;
};

// lib/session.js
type Environment = {id: string, name: string};
type Project = {id: string, name: string, time_zone: string, role: string, environments: Environment[]};
type User = {id: string, email: string, name: string, is_admin: boolean};
type Scope = {project: string, environment: string};

// lib/stream.js
type Stream = {
  /** newest first */
  events: any[];
  /** since the stream was opened */
  arrived: number;
  /** arrived too fast to be told, and only counted */
  dropped: number;
  state: "opening" | "open" | "paused" | "fault";
  error: any;
  clear: () => void;
};

// lib/table.js
type Column = {
  key: string;
  title: any;
  /** what is shown; row[key] when absent, as `as` says */
  cell?: (row: any, index: number) => any;
  as?: "code" | "time" | "millis" | "ago";
  /** numbers stand right */
  right?: boolean | undefined;
  /** a CSS width */
  width?: string;
};
type TableProps = {columns: Column[], rows: any[], label: string, rowKey?: (row: any, index: number) => string | number, onRow?: (row: any) => void, height?: number, testid?: string, rowClass?: (row: any) => string, selected?: (row: any) => boolean};

// lib/theme.js
type Theme = "system" | "light" | "dark";

// lib/toast.js
type Notice = {id: number, text: string, kind: "good" | "warning" | "bad", name?: string};

// screens/usage.js
type TabProps = {meters: Meter[], more: number, state: State, span: Span, again?: () => void};
type UsageProps = {parts: string[], query: URLSearchParams};
type OverviewProps = {tab: string, customer: string, query: URLSearchParams};

// usage/model.js
type Meter = {id: string, name: string, event_name: string, aggregation: any, filters: {key: string, values: string[]}[], unit: string, reset_usage: string, version: number, effective_from: string, status: string};
type Bucket = {window_size: string, exact_value: string, has_value: boolean, group: Record<string, string>, event_count: number, missing_count: number, not_numeric_count: number, too_precise_count: number};
/** what the address holds */
type State = {range: string, from: string, to: string, window: string, by: string, customer: string, zone: string};
type Span = {start: string, end: string};

// insights/combobox.js
type ChipsProps = {label: string, values: string[], source: (text: string) => Promise<Suggestion[]>, onChange: (values: string[]) => void, nameOf?: (value: string) => string, searches?: boolean, placeholder?: string, testid?: string};

// insights/fields.js
type ChoiceProps = {label: string, value: string | undefined, choices: Choices, onChange: (value: string) => void, testid?: string};
type TextProps = {label: string, value: any, onChange: (value: string) => void, placeholder?: string, wide?: boolean, testid?: string};
type WholeProps = {label: string, value: number | undefined, onChange: (value: number | undefined) => void, min?: number, max?: number, placeholder?: string, testid?: string};
type CheckProps = {label: string, checked: boolean, onChange: (checked: boolean) => void, testid?: string};
type EventNameProps = {label: string, value: string | null | undefined, onChange: (event: string | null) => void, only?: boolean, testid?: string};
type GroupTypeProps = {label?: string, of: any, prefix?: string, onChange: (of: any) => void};
type PropertyNameProps = {label: string, type: string, group?: string | number | undefined, value: string | undefined, onChange: (key: string) => void, testid?: string};

type StepProps = {step: any, index: number, count: number, onChange: (step: any) => void, onRemove: () => void, onMove: (by: number) => void};
type ExclusionProps = {excluded: any, index: number, steps: [string, string][], onChange: (excluded: any) => void, onRemove: () => void};
type FunnelFormProps = {question: Question, onChange: (changes: Question) => void};

type PathsFormProps = {question: Question, onChange: (changes: Question) => void};
type NodeNameProps = {label: string, value: string | undefined, testid: string, onChange: (node: string | undefined) => void};
type AroundProps = {question: Question, onChange: (changes: Question) => void};

// insights/range.js
type RangeProps = {question: Question, onChange: (changes: Question) => void, interval?: boolean, compare?: boolean};
type CompareProps = {question: Question, onChange: (changes: Question) => void};
type ZoneProps = {question: Question, onChange: (changes: Question) => void};
type PeriodsProps = {question: Question, onChange: (changes: Question) => void};

// insights/share.js
type SaveFormProps = {dashboards: any[], kind: Kind, question: any, onClose: () => void};
type SaveToProps = {kind: Kind, question: any, onClose: () => void};

// lib/events.js
type EventTableProps = {events: any[], label: string, height?: number, testid?: string};

// lib/format.js
type TimeProps = {at: string | number | null | undefined, relative?: boolean, millis?: boolean};

// lib/parts.js
type FieldProps = {label: any, hint?: any, children: any, inline?: boolean};
type BadgeProps = {kind: "good"|"warning"|"bad"|"plain", children: any, title?: string};
type TabsProps = {items: [string, any, string][], current: string, label: string};
type DialogProps = {title: string, onClose: () => void, children: any, wide?: boolean, testid?: string};
type FormDialogProps = {title: string, action: string, save: string, onSave: (form: FormData) => any, onClose: () => void, children: any, wide?: boolean, testid?: string};
type ConfirmProps = {title: string, children: any, action: string, onYes: () => void, onClose: () => void, busy?: boolean, danger?: boolean};
type HeadProps = {title: any, children?: any, about?: any};
type CopyProps = {text: string, label?: string, what?: string};
type SecretProps = {text: string, onClose: () => void, children: any, testid?: string};

// lib/shell.js
type EntryProps = {name: string, words: string, letter: string, current: string};

// screens/dead-letters.js
type ActProps = {action: "replay" | "discard", selection: any, onClose: () => void, start?: string};
type DeadLettersProps = {parts: string[], query: URLSearchParams};

// screens/schemas.js
type NamedProps = {name: string, choices: [string, string][], value: string};
type NextProps = {at: string, newest: any, onClose: () => void, onDone: () => void};
type DefinitionProps = {text: string, onChange: (text: string) => void};

// screens/settings.js
type NameFormProps = {label: string, action: string, value?: string, onSave: (name: string) => Promise<any>, testid: string};

// screens/webhooks.js
type DeliveriesProps = {at: string, state: string, sent: number, onReplay: (which: string) => void};
type WebhooksProps = {parts: string[], query: URLSearchParams};

// usage/controls.js
type ControlsProps = {state: State, windows?: boolean, groups?: boolean, event?: string};

// usage/making.js
type MeterFormProps = {of?: Meter, onClose: () => void, onDone: (meter: Meter) => void};
type RemovingProps = {at: string, title: string, words: string, action: string, onClose: () => void, onDone: () => void, children: any};
type FeatureFormProps = {id?: string, meters: Meter[], onClose: () => void, onDone: () => void};
type FeatureFieldsProps = {of: any, meters: Meter[], onClose: () => void, onDone: () => void};
type FeatureActionsProps = {id: string, name: string, meters: Meter[], again: () => void};

// usage/meter.js
type MeasuredProps = {meter: Meter, query: URLSearchParams, again: () => void};
type WindowsProps = {answer: any, state: State, by: string, onShow: (bucket: Bucket, at: number) => void};
type EventsPanelProps = {meter: Meter, drill: {title: string, list: any, count: number}, onClose: () => void};
type TotalProps = {meter: Meter, answer: any, onShow: () => void};

// insights/answer.js
type AboutProps = {kind: Kind, answer: any, sent: any, at: number};

// screens/events.js
type EventsProps = {parts: string[], query: URLSearchParams};

// screens/insights.js
type InsightsProps = {parts: string[], query: URLSearchParams};

// screens/persons.js
type PersonsProps = {parts: string[], query: URLSearchParams};

// screens/start.js
type ConnectProps = {first: boolean, demo: {run: () => any, busy: boolean}};

// screens/transforms.js
type TransformsProps = {parts: string[], query: URLSearchParams};
type VersionsProps = {at: string, onTake: (text: string) => void};
