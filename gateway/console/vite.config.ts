import adapter from '@sveltejs/adapter-static';
import { sveltekit } from '@sveltejs/kit/vite';
import tailwindcss from '@tailwindcss/vite';
import type { Plugin } from 'vite';
import { defineConfig } from 'vitest/config';

// `npm run dev` forwards what the API answers to a running mesh.
const mesh = process.env.MLXMESH_HTTP ?? 'http://127.0.0.1:8051';
const toMesh = { target: mesh, changeOrigin: true, headers: { origin: mesh } };

/** SvelteKit hides its announcer of page titles by a style attribute, which the policy of the pages forbids. */
const announcerByClass: Plugin = {
  name: 'announcer-by-class',
  enforce: 'pre',
  transform: {
    filter: { id: /kit\/src\/runtime\/components\/root\.svelte$/ },
    handler: (code) => ({ code: code.replace(/\bstyle="position: absolute[^"]*"/, 'class="sr-only"'), map: null }),
  },
};

export default defineConfig({
  plugins: [
    announcerByClass,
    tailwindcss(),
    sveltekit({
      compilerOptions: { runes: true },
      // A page whose parts are gone after an upgrade notices it by this.
      version: { name: process.env.MLXMESH_CONSOLE_VERSION ?? 'development' },
      adapter: adapter({ fallback: 'index.html', precompress: true }),
    }),
  ],
  build: { assetsInlineLimit: 0, chunkSizeWarningLimit: 400 },
  server: {
    proxy: {
      '^/mlxmesh\\.': toMesh,
      '/session': toMesh,
      '/v1': toMesh,
      '/v2': toMesh,
      '/metrics': toMesh,
    },
  },
  // Tests run the code of browsers.
  resolve: process.env.VITEST ? { conditions: ['browser'] } : undefined,
  test: { include: ['tests/**/*.test.ts'], environment: 'jsdom' },
});
