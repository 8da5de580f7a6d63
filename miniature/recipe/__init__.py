"""How the miniature was made, and what was measured on it: training, judge, studies. Users need none of it."""
