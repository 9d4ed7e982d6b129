import type { Tape } from '../autograd/tape.ts';
import type { Tensor } from '../autograd/tensor.ts';
import type { Activation } from '../ops/pointwise.ts';

/**
 * A tree of named parameters, buffers and children, in the manner of torch.nn.Module: the names joined by dots are
 * PyTorch's state-dict keys.
 */
export abstract class Module {
  readonly tape: Tape;
  #training = true;
  readonly #parameters = new Map<string, Tensor>();
  readonly #buffers = new Map<string, Tensor>();
  readonly #children = new Map<string, Module>();
  #place: { readonly parent: Module; readonly name: string } | undefined;

  constructor(tape: Tape) {
    this.tape = tape;
  }

  /** The names from the root of the tree to here; the root's is its class: `discriminator.main.3.query_conv`. */
  get path(): string {
    if (this.#place !== undefined) return `${this.#place.parent.path}.${this.#place.name}`;
    return this.constructor.name.replace(/^[A-Z]/, (c) => c.toLowerCase());
  }

  /** True in training mode: batch statistics and power iterations move only then. */
  get training(): boolean {
    return this.#training;
  }

  /** Sets training or evaluation mode here and below. */
  train(mode = true): this {
    this.#training = mode;
    for (const child of this.#children.values()) child.train(mode);
    return this;
  }

  eval(): this {
    return this.train(false);
  }

  /** What an optimiser moves, by state-dict key. */
  *namedParameters(prefix = ''): Generator<[string, Tensor]> {
    for (const [name, value] of this.#parameters) yield [prefix + name, value];
    for (const [name, child] of this.#children) yield* child.namedParameters(`${prefix}${name}.`);
  }

  /** State that is no parameter: running statistics, u and v. */
  *namedBuffers(prefix = ''): Generator<[string, Tensor]> {
    for (const [name, value] of this.#buffers) yield [prefix + name, value];
    for (const [name, child] of this.#children) yield* child.namedBuffers(`${prefix}${name}.`);
  }

  /** This module and all below it, by path. */
  *namedModules(prefix = ''): Generator<[string, Module]> {
    yield [prefix, this];
    for (const [name, child] of this.#children) {
      yield* child.namedModules(prefix === '' ? name : `${prefix}.${name}`);
    }
  }

  parameters(): Tensor[] {
    return [...this.namedParameters()].map(([, value]) => value);
  }

  /** Number of trainable numbers. */
  parameterCount(): number {
    return this.parameters().reduce((n, p) => n + p.size, 0);
  }

  /** Parameters and buffers by PyTorch's keys. */
  stateDict(): Map<string, Tensor> {
    return new Map([...this.namedParameters(), ...this.namedBuffers()]);
  }

  protected parameter(name: string, value: Tensor): Tensor {
    this.#parameters.set(name, value);
    return value;
  }

  protected buffer(name: string, value: Tensor): Tensor {
    this.#buffers.set(name, value);
    return value;
  }

  protected child<M extends Module>(name: string, value: M): M {
    this.#children.set(name, value);
    value.#standIn(this, name);
    value.train(this.#training);
    return value;
  }

  #standIn(parent: Module, name: string): void {
    this.#place = { parent, name };
  }

  /** Gives a parameter another key (spectral norm: `weight` becomes `weight_orig`), keeping its place. */
  protected rename(from: string, to: string): void {
    const entries = [...this.#parameters];
    this.#parameters.clear();
    for (const [name, value] of entries) this.#parameters.set(name === from ? to : name, value);
  }
}

/** A module that maps one tensor to one. */
export abstract class Layer extends Module {
  /** What the layer is, if it is an activation that the layer before it can apply in its own launch. */
  readonly activation: Activation | undefined = undefined;
  /** True if `forward` applies an activation that it is given. */
  readonly takesActivation: boolean = false;

  constructor(tape: Tape) {
    super(tape);
    // Here once, and in no layer: what a forward pass launches is marked with the path of the layer.
    const forward = this.forward.bind(this);
    this.forward = (...args) => tape.gpu.within({ layer: this.path }, () => forward(...args));
  }

  abstract forward(x: Tensor): Tensor;
}

/** A layer whose forward pass applies an activation that it is given. */
interface Activated extends Layer {
  readonly takesActivation: true;
  forward(x: Tensor, activation?: Activation): Tensor;
}

function takesActivation(layer: Layer): layer is Activated {
  return layer.takesActivation;
}

/** Layers one after the other; children are numbered, as in torch.nn.Sequential. */
export class Sequential extends Layer {
  readonly layers: readonly Layer[];

  constructor(tape: Tape, layers: readonly Layer[]) {
    super(tape);
    this.layers = layers;
    layers.forEach((layer, i) => this.child(String(i), layer));
  }

  /** A layer that can also does the work of an activation right behind it. */
  override forward(x: Tensor): Tensor {
    return this.layers.reduce((h, layer, i) => {
      const [before, after] = [this.layers[i - 1], this.layers[i + 1]];
      if (layer.activation !== undefined && before?.takesActivation === true) return h;
      return takesActivation(layer) ? layer.forward(h, after?.activation) : layer.forward(h);
    }, x);
  }
}
