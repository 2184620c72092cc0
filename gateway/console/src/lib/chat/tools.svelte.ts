import { Approval, ToolService, type Tool } from '#gen/mlxmesh/tool/v1/tool_pb.ts';
import { clientOf, toApiError } from '#lib/api/index.ts';
import { orNone } from '#lib/tools/service.ts';
import type { OfferedTool } from './request.ts';
import type { Call, Settings } from './types.ts';

export type Decision = 'once' | 'always' | 'deny';

/** A call that waits for the user. */
export interface Question {
  call: Call;
  tool: Tool;
  decide(decision: Decision): void;
}

export interface ToolResult {
  text: string;
  isError: boolean;
  durationMs: number;
}

/** The mesh's tools, and the questions about calls of them. */
export class Tools {
  list = $state.raw<Tool[]>([]);
  /** Why the list is empty; empty for none. */
  problem = $state('');
  loaded = $state(false);
  questions = $state.raw<Question[]>([]);

  #client = clientOf(ToolService);

  async load(): Promise<void> {
    try {
      this.list = await orNone(async () => (await this.#client.listTools({})).tools);
      this.problem = '';
    } catch (thrown) {
      this.problem = toApiError(thrown).message;
      this.list = [];
    }
    this.loaded = true;
  }

  find(name: string): Tool | undefined {
    return this.list.find((one) => one.function === name);
  }

  /** The tools that a conversation has chosen. */
  offered(settings: Settings): OfferedTool[] {
    return this.list
      .filter((one) => settings.tools.includes(one.function) && one.approval !== Approval.NEVER)
      .map((one) => ({ function: one.function, description: one.description, schema: one.inputSchemaJson }));
  }

  /** Asks the user; an abort denies. */
  ask(call: Call, tool: Tool, signal: AbortSignal): Promise<Decision> {
    return new Promise((resolve) => {
      const decide = (decision: Decision) => {
        signal.removeEventListener('abort', abort);
        this.questions = this.questions.filter((one) => one !== question);
        resolve(decision);
      };
      const abort = () => decide('deny');
      const question: Question = { call, tool, decide };
      signal.addEventListener('abort', abort, { once: true });
      this.questions = [...this.questions, question];
    });
  }

  async call(name: string, argumentsJson: string, requestId: string, approved: boolean, signal: AbortSignal): Promise<ToolResult> {
    const response = await this.#client.callTool({ function: name, argumentsJson, approved, requestId }, { signal });
    return { text: response.text, isError: response.isError, durationMs: response.durationMs };
  }
}

export const tools = new Tools();
