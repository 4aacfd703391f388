import { Component, type ReactNode } from "react";
import { Empty } from "./Empty";

interface Props {
  /** What it is tried anew for. */
  address: string;
  children: ReactNode;
}

/**
 * Keeps an error of one page to that page: the way to the others, and the line that says whether
 * everything matches, stay.
 */
export class Boundary extends Component<Props, { error: Error | null }> {
  override state: { error: Error | null } = { error: null };

  static getDerivedStateFromError(error: Error): { error: Error } {
    return { error };
  }

  override componentDidUpdate(before: Props): void {
    if (before.address !== this.props.address && this.state.error) this.setState({ error: null });
  }

  override render(): ReactNode {
    const { error } = this.state;
    if (!error) return this.props.children;
    return (
      <>
        <h1>This page can't be shown</h1>
        <Empty title="Its data is not what it was made for." command="counterfoil status {at}">
          {error.message}. The other pages may still be: if the application was brought up to date
          meanwhile, load this one anew.
        </Empty>
      </>
    );
  }
}
