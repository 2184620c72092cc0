export type Theme = 'system' | 'light' | 'dark';

const KEY = 'mlxmesh.theme';

/** Dark, light, or what the system says. */
class ThemeChoice {
  value = $state<Theme>('system');

  start(): void {
    const stored = localStorage.getItem(KEY);
    this.set(stored === 'light' || stored === 'dark' ? stored : 'system');
  }

  set(theme: Theme): void {
    this.value = theme;
    if (theme === 'system') {
      localStorage.removeItem(KEY);
      delete document.documentElement.dataset.theme;
    } else {
      localStorage.setItem(KEY, theme);
      document.documentElement.dataset.theme = theme;
    }
  }
}

export const theme = new ThemeChoice();
