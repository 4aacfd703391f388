// The commands that fill an empty page.

export const UP = "counterfoil up examples/shop";
export const PROVE = "counterfoil prove examples/shop --state examples/shop/.counterfoil-proof";
