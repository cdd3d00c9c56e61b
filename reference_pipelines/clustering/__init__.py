"""Pseudo-labels from features, and the memory of clusters that training compares with."""

from reference_pipelines.clustering.agglomerative import merge
from reference_pipelines.clustering.dbscan import dbscan
from reference_pipelines.clustering.jaccard import jaccard_graph, jaccard_of_neighbours
from reference_pipelines.clustering.kmeans import kmeans
from reference_pipelines.clustering.memory import ClusterMemory
from reference_pipelines.clustering.pseudo_labels import cluster, describe_clusters, silhouette
from reference_pipelines.clustering.purity import normalised_mutual_information, purity

__all__ = [
    "ClusterMemory",
    "cluster",
    "dbscan",
    "describe_clusters",
    "jaccard_graph",
    "jaccard_of_neighbours",
    "kmeans",
    "merge",
    "normalised_mutual_information",
    "purity",
    "silhouette",
]
