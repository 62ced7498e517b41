"""Recipes: their sections, how they are parsed, and the recipes, targets and policies that ship with edgesafe."""
