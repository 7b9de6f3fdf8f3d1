// The words of questions, as the API spells them, and what they are called here.

/** @type {{kind: Kind, name: string, what: string}[]} */
export const KINDS = [
  { kind: "trends", name: "Trends", what: "How often, by how many, over time" },
  { kind: "funnel", name: "Funnel", what: "How many come from step to step" },
  { kind: "retention", name: "Retention", what: "Who comes back, and when" },
  { kind: "lifecycle", name: "Lifecycle", what: "Who is new, stays, returns or leaves" },
  { kind: "stickiness", name: "Stickiness", what: "On how many days people are active" },
  { kind: "paths", name: "Paths", what: "What people do one after the other" },
];

/** @type {Choices} */
export const INTERVALS = [["minute", "Minute"], ["hour", "Hour"], ["day", "Day"], ["week", "Week"], ["month", "Month"]];

/** Ranges by how they are written: from, to. @type {[from: string, to: string, label: string][]} */
export const RANGES = [
  ["dStart", "", "Today"],
  ["-1dStart", "-1dEnd", "Yesterday"],
  ["-24h", "", "Last 24 hours"],
  ["-7d", "", "Last 7 days"],
  ["-14d", "", "Last 14 days"],
  ["-30d", "", "Last 30 days"],
  ["-90d", "", "Last 90 days"],
  ["mStart", "", "This month"],
  ["-1mStart", "-1mEnd", "Last month"],
  ["yStart", "", "This year"],
  ["all", "", "All time"],
];

/** @type {{group: string, choices: Choices}[]} */
export const MATHS = [
  { group: "Count", choices: [["total", "Total events"], ["dau", "Unique people"], ["weekly_active", "Weekly active people"], ["monthly_active", "Monthly active people"], ["unique_session", "Unique sessions"], ["unique_group", "Unique groups"], ["first_time_for_user", "First time ever"], ["first_time_for_user_with_filters", "First time with these filters"]] },
  { group: "Of a property", choices: [["sum", "Sum"], ["avg", "Average"], ["min", "Minimum"], ["max", "Maximum"], ["median", "Median"], ["p75", "75th percentile"], ["p90", "90th percentile"], ["p95", "95th percentile"], ["p99", "99th percentile"]] },
  { group: "Events per person", choices: [["avg_count_per_actor", "Average per person"], ["min_count_per_actor", "Minimum per person"], ["max_count_per_actor", "Maximum per person"], ["median_count_per_actor", "Median per person"], ["p75_count_per_actor", "75th percentile per person"], ["p90_count_per_actor", "90th percentile per person"], ["p95_count_per_actor", "95th percentile per person"], ["p99_count_per_actor", "99th percentile per person"]] },
];

/** Is this a number of a property? @param {string | undefined} math */
export const ofProperty = (math) => (MATHS[1]?.choices ?? []).some(([value]) => value === math);

/** @type {Choices} */
export const DISPLAYS = [["line", "Lines"], ["area", "Areas"], ["bar", "Bars"], ["cumulative", "Cumulative"], ["bold_number", "Number"], ["table", "Table"], ["pie", "Shares"], ["bar_value", "Bars of totals"]];

/** Displays with one number for the whole range. @param {string | undefined} display */
export const isWhole = (display) => ["bold_number", "table", "pie", "world_map", "bar_value"].includes(display ?? "");

/** @type {Choices} */
export const FILTER_TYPES = [["event", "Event"], ["person", "Person"], ["event_metadata", "Event field"], ["session", "Session"], ["cohort", "Cohort"], ["feature", "Feature flag"], ["group", "Group"], ["element", "Element"]];
/** @type {Choices} */
export const PROPERTY_TYPES = [["event", "Event"], ["person", "Person"], ["event_metadata", "Event field"], ["feature", "Feature flag"], ["group", "Group"]];

export const METADATA = ["event", "distinct_id", "event_id", "session_id", "source", "customer_id", "person_id", "timestamp", "received_at"];
export const ELEMENT = ["tag_name", "text", "href", "selector"];
export const SESSION = ["$session_duration", "$event_count", "$pageview_count", "$is_bounce", "$entry_current_url", "$exit_current_url"];

/**
 * How a value is compared, and what has to be given: nothing, one text, several, a number, two of them, a date.
 * @type {[value: string, label: string, takes: "none" | "text" | "texts" | "number" | "numbers" | "date"][]}
 */
export const OPERATORS = [
  ["exact", "is", "texts"],
  ["is_not", "is not", "texts"],
  ["in", "is one of", "texts"],
  ["not_in", "is none of", "texts"],
  ["icontains", "contains", "texts"],
  ["not_icontains", "does not contain", "texts"],
  ["regex", "matches regex", "text"],
  ["not_regex", "does not match regex", "text"],
  ["gt", ">", "number"],
  ["gte", "≥", "number"],
  ["lt", "<", "number"],
  ["lte", "≤", "number"],
  ["between", "is between", "numbers"],
  ["not_between", "is not between", "numbers"],
  ["is_set", "is set", "none"],
  ["is_not_set", "is not set", "none"],
  ["is_date_exact", "is on (date)", "date"],
  ["is_date_before", "is before (date)", "date"],
  ["is_date_after", "is after (date)", "date"],
  ["is_cleaned_path_exact", "is the path", "text"],
  ["semver_eq", "is version", "text"],
  ["semver_neq", "is not version", "text"],
  ["semver_gt", "version >", "text"],
  ["semver_gte", "version ≥", "text"],
  ["semver_lt", "version <", "text"],
  ["semver_lte", "version ≤", "text"],
  ["semver_tilde", "version ~", "text"],
  ["semver_caret", "version ^", "text"],
  ["semver_wildcard", "version like 1.2.*", "text"],
];
const OF_LISTS = ["in", "not_in", "exact", "is_not"];

/** The operators of a filter. @param {Filter} filter */
export const operators = ({ type, key }) => (type === "cohort" || (type === "element" && key === "selector") ? OPERATORS.filter(([value]) => OF_LISTS.includes(value)) : OPERATORS);
/** @param {string | undefined} operator */
export const takes = (operator) => OPERATORS.find(([value]) => value === (operator ?? "exact"))?.[2] ?? "texts";

export const OTHER = "$$_posthog_breakdown_other_$$";
export const WITHOUT = "$$_posthog_breakdown_null_$$";

/** A value of a breakdown, for people. @param {string} text */
export function valueName(text) {
  if (text === OTHER) return "(all others)";
  if (text === WITHOUT || text === "") return "(none)";
  return text;
}

/** @type {Choices} */
export const ORDERS = [["ordered", "In order, anything in between"], ["strict", "Strictly one after the other"], ["unordered", "In any order"]];
/** @type {Choices} */
export const VIZES = [["steps", "Steps"], ["trends", "Conversion over time"], ["time_to_convert", "Time to convert"]];
/** @type {Choices} */
export const ATTRIBUTIONS = [["first_touch", "First touch"], ["last_touch", "Last touch"], ["all_events", "All events"], ["step", "A step"]];
/** @type {Choices} */
export const WINDOW_UNITS = [["second", "seconds"], ["minute", "minutes"], ["hour", "hours"], ["day", "days"], ["week", "weeks"], ["month", "months"]];
/** @type {Choices} */
export const RETENTION_TYPES = [["recurring", "Every time"], ["first_time", "First time (with these filters)"], ["first_ever_occurrence", "First time ever"]];
/** @type {Choices} */
export const COMPARISONS = [["gte", "at least"], ["lte", "at most"], ["exact", "exactly"]];
/** @type {Choices} */
export const INCLUDES = [["$pageview", "Pages"], ["$screen", "Screens"], ["custom_event", "Own events"]];
export const STATES = /** @type {const} */ (["new", "returning", "resurrecting", "dormant"]);
