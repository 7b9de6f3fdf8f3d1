// What the page uses of Preact, signals and htm, as types.
export interface VNode { type: unknown; props: Record<string, unknown>; key: unknown }
export type Child = VNode | string | number | boolean | null | undefined | Child[] | Signal<any>;
export type Component<P = any> = (props: P) => Child;

export function h(type: string | Component, props: object | null, ...children: Child[]): VNode;
export function render(what: Child, parent: Element): void;
export const Fragment: Component;
/** What stands in a template. Its shape gives a function written there its types: what it is given may be anything. */
export type Given = ((...given: any[]) => any) | readonly Given[] | { [name: string]: Given } | object | string | number | bigint | boolean | symbol | null | undefined;
export function html(strings: TemplateStringsArray, ...values: Given[]): VNode;

export function useState<T>(initial: T | (() => T)): [T, (next: T | ((before: T) => T)) => void];
export function useEffect(run: () => void | (() => void), inputs?: unknown[]): void;
export function useLayoutEffect(run: () => void | (() => void), inputs?: unknown[]): void;
export function useMemo<T>(make: () => T, inputs?: unknown[]): T;
export function useCallback<T extends (...given: any[]) => any>(call: T, inputs: unknown[]): T;
export function useRef<T>(initial: T): { current: T };
export function useId(): string;

export interface ReadonlySignal<T> { readonly value: T; peek(): T; subscribe(call: (value: T) => void): () => void }
export interface Signal<T> extends ReadonlySignal<T> { value: T }
export function signal<T>(value: T): Signal<T>;
export function computed<T>(make: () => T): ReadonlySignal<T>;
export function effect(run: () => void | (() => void)): () => void;
export function batch<T>(run: () => T): T;
export function useSignal<T>(value: T): Signal<T>;
export function useComputed<T>(make: () => T): ReadonlySignal<T>;
